"""Imports point one way: ir <- passes <- codegen <- backends <- tools/effc."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["ir", "passes", "codegen", "backends", "tools/effc"]
BELOW = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "codegen": {"ir", "passes", "codegen"},
    "backends": {"ir", "passes", "codegen", "backends"},
    "tools/effc": {"ir", "passes", "codegen", "backends", "tools/effc"},
}
FILES = [(layer, file) for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]


def imported(file: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(), file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str | None:
    """The layer a module of effc belongs to."""
    parts = module.split(".")
    if parts[0] != "effc":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in BELOW else "tools/effc"


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for owner, file in FILES
        if owner == layer
        for module in imported(file)
        if layer_of(module) not in {None, *BELOW[layer]}
    ]
    assert wrong == []


def test_sources_name_each_other_as_effc() -> None:
    bare = [
        f"{file.relative_to(ROOT)} imports {module}"
        for _, file in FILES
        for module in imported(file)
        if module.split(".")[0] in {"ir", "passes", "codegen", "backends", "tools", "tests"}
    ]
    assert bare == []


def test_tests_of_tests() -> None:
    assert layer_of("effc.ir.program.Program") == "ir"
    assert layer_of("effc.commands") == "tools/effc"
    assert layer_of("effc") == "tools/effc"
    assert layer_of("torch.fx") is None
    assert len(FILES) > 50
