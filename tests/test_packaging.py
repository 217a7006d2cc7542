"""What is installed: every package, nothing at the top level but effc."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

import effc

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
SOURCES = {
    "effc": ROOT / "tools" / "effc",
    "effc.backends": ROOT / "backends",
    "effc.codegen": ROOT / "codegen",
    "effc.ir": ROOT / "ir",
    "effc.passes": ROOT / "passes",
}


def package_of(root: str, file: Path) -> str:
    inner = file.parent.relative_to(SOURCES[root]).parts
    return ".".join([root, *inner])


def root_of(package: str) -> str:
    """The source folder a listed package lies in."""
    first_two = ".".join(package.split(".")[:2])
    return first_two if first_two in SOURCES else "effc"


@pytest.mark.parametrize("root", SOURCES)
def test_every_package_is_listed(root: str) -> None:
    found = {package_of(root, file) for file in SOURCES[root].rglob("__init__.py")}
    assert found == {name for name in SETUP["packages"] if root_of(name) == root}


@pytest.mark.parametrize("root", SOURCES)
def test_every_module_is_in_a_package(root: str) -> None:
    missing = [
        str(file.relative_to(ROOT))
        for file in SOURCES[root].rglob("*.py")
        if not (file.parent / "__init__.py").exists()
    ]
    assert missing == []


def test_folders_map_to_effc() -> None:
    expected = {name: str(path.relative_to(ROOT)) for name, path in SOURCES.items()}
    assert SETUP["package-dir"] == expected


def test_nothing_else_lands_at_the_top_level() -> None:
    assert {name.split(".")[0] for name in SETUP["packages"]} == {"effc"}
    distribution = importlib.metadata.distribution("effc")
    assert (distribution.read_text("top_level.txt") or "effc").split() == ["effc"]


def test_versions_agree() -> None:
    assert importlib.metadata.version("effc") == effc.__version__
