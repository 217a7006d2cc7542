"""Small artifacts, built once: float32, 8 bits, two inputs with names, and the eager backend."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effc.backends.artifact import MANIFEST
from effc.backends.runner import Model
from effc.backends.staging import RESULT, replacing
from effc.candidate import build_candidate
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

LIBRARY = "model.so"
Open = Callable[..., Model]


class Images(nn.Module):
    """Convolutions, a depthwise one, a residual addition, a head: large enough for four threads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.mix = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.mix(self.depthwise(x)).relu()
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    """Two inputs of different types, two outputs of different types."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"scaled": left * right.float(), "codes": right + 1}


@pytest.fixture(scope="session")
def programs() -> dict[str, Program]:
    """The programs of the artifacts, by name."""
    images = traced(Images(), torch.randn(2, 3, 12, 12), dynamic={"x.0": "batch"})
    pair = traced(
        Pair(),
        torch.randn(3, 4),
        torch.ones(3, 4, dtype=torch.int64),
        dynamic={"left.0": "rows", "right.0": "rows"},
    )
    found = {"float32": images, "pair": pair}
    cleaned = {
        name: PassManager.parse(CLEAN).run(program, PassContext()).program
        for name, program in found.items()
    }
    quantize = PassManager.parse("quantize{activations=dynamic}")
    return cleaned | {"int8": quantize.run(cleaned["float32"], PassContext()).program}


@pytest.fixture(scope="session")
def artifacts(
    programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders by name; tests must not write to them."""
    native = dataclasses.replace(Target.parse("native"), cores=2)
    wanted = {name: (program, native) for name, program in programs.items()}
    eager = Target.parse("eager")
    wanted |= {"eager": (programs["float32"], eager), "eager-pair": (programs["pair"], eager)}
    folders = {}
    for name, (program, target) in wanted.items():
        folders[name] = tmp_path_factory.mktemp(name) / "out"
        folders[name].mkdir()
        build_candidate(name, program, target, folders[name], []).model.close()
    return folders


@pytest.fixture
def copied(artifacts: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an artifact that a test may damage."""
    return lambda name: Path(shutil.copytree(artifacts[name], tmp_path / "copy"))


@pytest.fixture
def load(artifacts: dict[str, Path]) -> Iterator[Open]:
    """Loads artifacts by name and closes them at the end."""
    opened: list[Model] = []

    def open_model(name: str, threads: int = 0) -> Model:
        opened.append(Model(artifacts[name], threads))
        return opened[-1]

    yield open_model
    for model in opened:
        model.close()


@pytest.fixture(scope="session")
def pixels() -> Tensor:
    """Images [5, 3, 12, 12]."""
    return torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def _fill(folder: Path, text: str) -> None:
    document = {"effc": text, "format": 1, "files": {LIBRARY: {}}}
    (folder / MANIFEST).write_text(json.dumps(document))
    (folder / LIBRARY).write_text(text * 50)


def _version(folder: Path) -> str | None:
    if not folder.exists():
        return None
    assert sorted(os.listdir(folder)) == [MANIFEST, LIBRARY]
    text = str(json.loads((folder / MANIFEST).read_text())["effc"])
    assert (folder / LIBRARY).read_text() == text * 50
    return text


def _write(folder: Path, text: str) -> None:
    with replacing(folder) as scratch:
        _fill(scratch / RESULT, text)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where an output folder may appear."""
    return tmp_path / "out"


@pytest.fixture
def fill() -> Callable[[Path, str], None]:
    """Write what looks like an artifact into a folder; both of its files tell which one it is."""
    return _fill


@pytest.fixture
def write() -> Callable[[Path, str], None]:
    """Replace an output folder."""
    return _write


@pytest.fixture
def version() -> Callable[[Path], str | None]:
    """Which artifact lies in an output folder, all of it; None if there is no folder."""
    return _version


@pytest.fixture
def only() -> Callable[[Path], list[str]]:
    """All names in a folder."""
    return lambda parent: sorted(os.listdir(parent))
