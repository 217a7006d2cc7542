"""Models built once for C programs, and a way to compile and run such programs."""

import dataclasses
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Small tensors everywhere: one thread is faster than handing out the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def programs() -> dict[str, Program]:
    """Clean programs by name."""
    traces = {
        "images": traced(Images(), torch.randn(2, 3, 12, 12), dynamic={"x.0": "batch"}),
        "other": traced(Images(6), torch.randn(2, 3, 12, 12), dynamic={"x.0": "batch"}),
        "words": traced(
            Words(), torch.randn(2, 3, 16), dynamic={"x.0": "batch", "x.1": "steps"}, smallest=2
        ),
    }
    rows = torch.export.Dim("rows", max=1 << 20)
    wide = torch.export.export(Wide().eval(), (torch.randn(3, 4),), dynamic_shapes=({0: rows},))
    traces["wide"] = program_of(wide, "wide")
    cleaned = {
        name: PassManager.parse(CLEAN).run(program, PassContext()).program
        for name, program in traces.items()
    }
    cleaned["vast"] = cleaned["wide"].clone()
    (rows,) = cleaned["vast"].symbols
    cleaned["vast"].symbols[rows] = Symbol(rows, 1, (1 << 63) - 1)
    quantize = PassManager.parse("quantize{activations=dynamic}")
    return cleaned | {"codes": quantize.run(cleaned["images"], PassContext()).program}


@pytest.fixture(scope="session")
def executables(programs: dict[str, Program]) -> dict[str, Executable]:
    """Their kernels and memory plans."""
    return {name: lowered(program, TARGET)[0] for name, program in programs.items()}


@pytest.fixture(scope="session")
def sources(
    programs: dict[str, Program],
    executables: dict[str, Executable],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Folders with `model.c`, `kernels.o` and `weights.safetensors`, by name."""
    folders = {}
    for name, executable in executables.items():
        folders[name] = tmp_path_factory.mktemp(name)
        write_sources(executable, programs[name], TARGET, folders[name])
        write_weights(executable.weights, folders[name] / "weights.safetensors")
    return folders


@pytest.fixture(scope="session")
def builds(
    programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders with `model.so`, `effc.h` and `weights.safetensors`, by name."""
    folders = {}
    for name, program in programs.items():
        folders[name] = tmp_path_factory.mktemp(f"built-{name}")
        build(program, TARGET, folders[name])
    return folders


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
