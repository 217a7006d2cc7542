"""Models built once for C programs, and a way to compile and run such programs."""

import dataclasses
import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.backends.tvm_cpu.build import DRIVER, build, lowered, write_sources
from effc.backends.tvm_cpu.weights import write_weights
from effc.codegen.executable import Executable
from effc.ir.program import Program
from effc.ir.symbols import Symbol
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.ir.trace.exported import program_of
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "c" / "main.c"
LONGEST_SECONDS = 120
TARGET = dataclasses.replace(Target.parse("native"), cores=2)


class Images(nn.Module):
    """Borders, a reduction, products: threads meet several times."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.depthwise(x)
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """Attention over a symbolic number of steps, with working memory sized at run time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(16)
        self.project = nn.Linear(16, 48)
        self.down = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(self.norm(x)).chunk(3, -1)
        return x + self.down(functional.scaled_dot_product_attention(q, k, v))


class Wide(nn.Module):
    """Needs a gigabyte of working memory for a hundred thousand rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(4, 2048)
        self.down = nn.Linear(2048, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh())


@pytest.fixture(scope="session")
def families() -> ModuleType:
    """The module `families`."""
    spec = importlib.util.spec_from_file_location("families", HERE / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Made(dict[str, Any]):
    """Values by name that are made when somebody asks for them."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Any:
        self[name] = self._make(name)
        return self[name]


def vast(program: Program) -> Program:
    """The same for any number of rows that 64 bits hold."""
    found = program.clone()
    (rows,) = found.symbols
    found.symbols[rows] = Symbol(rows, 1, (1 << 63) - 1)
    return found


def wide() -> Program:
    rows = torch.export.Dim("rows", max=1 << 20)
    exported = torch.export.export(Wide().eval(), (torch.randn(3, 4),), dynamic_shapes=({0: rows},))
    return program_of(exported, "wide")


@pytest.fixture(scope="session")
def programs(families: ModuleType) -> dict[str, Program]:
    """Programs by name: cleaned, and some of them with smaller numbers."""
    batch, steps = {"x.0": "batch"}, {"x.0": "batch", "x.1": "steps"}
    pixels, words = torch.randn(2, 3, 12, 12), torch.randn(2, 3, 16)
    traces: dict[str, Callable[[], Program]] = {
        "images": lambda: traced(Images(), pixels, dynamic=batch),
        "other": lambda: traced(Images(6), pixels, dynamic=batch),
        "words": lambda: traced(Words(), words, dynamic=steps, smallest=2),
        "wide": wide,
    }
    forms = {
        "codes": ("images", "quantize{activations=dynamic}"),
        "maps-int8": ("maps", "quantize{activations=dynamic}"),
        "rows-bfloat16": ("rows", "bfloat16"),
    }

    def make(name: str) -> Program:
        if name == "vast":
            return vast(made["wide"])
        if name in forms:
            source, passes = forms[name]
            return PassManager.parse(passes).run(made[source], PassContext()).program
        if name in families.MODULES:
            joined = families.Joined(families.MODULES[name]())
            trace = traced(joined, families.example(name), dynamic=batch)
        else:
            trace = traces[name]()
        return PassManager.parse(CLEAN).run(trace, PassContext()).program

    made = Made(make)
    return made


@pytest.fixture(scope="session")
def executables(programs: dict[str, Program]) -> dict[str, Executable]:
    """Their kernels and memory plans."""
    return Made(lambda name: lowered(programs[name], TARGET)[0])


@pytest.fixture(scope="session")
def sources(
    programs: dict[str, Program],
    executables: dict[str, Executable],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Folders with `model.c`, `kernels.o` and `weights.safetensors`, by name."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        write_sources(executables[name], programs[name], TARGET, folder)
        write_weights(executables[name].weights, folder / "weights.safetensors")
        return folder

    return Made(make)


@pytest.fixture(scope="session")
def builds(
    programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders with `model.so`, `effc.h` and `weights.safetensors`, by name."""

    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"built-{name}")
        build(programs[name], TARGET, folder)
        return folder

    return Made(make)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a command and return what it said."""

    def call(command: Sequence[object], text: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            list(map(str, command)),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
            env={"PATH": "/usr/bin:/bin"},
        )

    return call


@pytest.fixture
def compiled(builds: dict[str, Path], run: Run, tmp_path: Path) -> Callable[..., Path]:
    """Compile a C program against a built folder, as a user would."""

    def compile_program(source: Path, name: str) -> Path:
        program, folder = tmp_path / f"{source.stem}-{name}", builds[name]
        rpath = ["-Xlinker", "-rpath", "-Xlinker", folder]
        command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder}"]
        done = run([*command, source, folder / "model.so", *rpath, "-lm", "-o", program])
        assert done.returncode == 0, done.stderr
        return program

    return compile_program


@pytest.fixture(scope="session")
def driver() -> Path:
    """The folder of `runtime.c`."""
    return DRIVER
