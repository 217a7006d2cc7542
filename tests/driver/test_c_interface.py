"""A model in a C program: no Python, no PyTorch, and an error where something is wrong."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, assert_close

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "c" / "main.c"
README = HERE.parents[1] / "README.md"
WEIGHTS = "weights.safetensors"
Run = Callable[..., Any]
Compile = Callable[[Path, str], Path]


def numbers(value: Tensor) -> str:
    return " ".join(f"{number:.9g}" for number in value.flatten().tolist())


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("images", (1, 3, 12, 12), ["1"]),
        ("images", (7, 3, 12, 12), ["7"]),
        ("codes", (3, 3, 12, 12), ["3"]),
        ("words", (2, 9, 16), ["2", "9"]),
    ],
)
def test_the_example_computes_what_torch_does(
    name: str,
    shape: tuple[int, ...],
    sizes: list[str],
    compiled: Compile,
    builds: dict[str, Path],
    programs: dict[str, Program],
    run: Run,
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    done = run([compiled(EXAMPLE, name), builds[name] / WEIGHTS, *sizes], numbers(x))
    assert (done.returncode, done.stderr) == (0, "")
    expected = programs[name].run({"x": x})["output"]
    found = torch.tensor([float(line) for line in done.stdout.split()]).view(expected.shape)
    assert_close("output", expected, found, ROUNDING[torch.float32])


def test_the_library_needs_no_other(builds: dict[str, Path], run: Run) -> None:
    """Neither Python, nor PyTorch, nor TVM; and it offers nothing but its interface."""
    listing = run(["readelf", "-d", builds["images"] / "model.so"]).stdout
    needed = [
        line.partition("[")[2].rstrip("]\n") for line in listing.splitlines() if "NEEDED" in line
    ]
    assert set(needed) <= {"libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
    symbols = run(["nm", "-D", "--defined-only", builds["images"] / "model.so"]).stdout.split()
    offered = {name for name in symbols[2::3]}
    header = (builds["images"] / "effc.h").read_text()
    assert offered
    assert all(name.startswith("effc_") and f"{name}(" in header for name in offered)


def test_two_models_in_one_process(
    compiled: Compile, builds: dict[str, Path], programs: dict[str, Program], run: Run
) -> None:
    """One is linked with the program, so that its names come first, the other is loaded later."""
    x = torch.full((2, 3, 12, 12), 0.5)
    done = run([compiled(HERE / "two_models.c", "images"), builds["images"], builds["other"]])
    assert (done.returncode, done.stderr) == (0, "")
    lines = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    for name, found in zip(("images", "other", "images"), lines, strict=True):
        expected = programs[name].run({"x": x})["output"].flatten()
        assert_close(name, expected, torch.tensor(found), ROUNDING[torch.float32])


def test_the_readme_shows_calls_that_compile(
    builds: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    shown = README.read_text().partition("```c\n")[2].partition("```")[0]
    include, _, calls = shown.partition("\n")
    source = tmp_path / "shown.c"
    source.write_text(
        f"#include <stdio.h>\n{include}\nfloat x[432], y[5];\n"
        f"int main(void) {{\n{calls}\nreturn 0;\n}}\n"
    )
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{builds['images']}", "-fsyntax-only"]
    done = run([*command, source])
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_calls_are_errors(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    done = run([compiled(HERE / "calls.c", "images"), builds["images"] / WEIGHTS])
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip() for line in done.stdout.splitlines()] == [
        "message: 0",
        "no weights: 1 no weights file given",
        "no place: 1 no place for the model given",
        "missing file: 1 cannot open none/weights: No such file or directory",
        "too many threads: 1 at most 256 threads, not 257",
        "model 0",
        "open: 0",
        "run: 0",
        *[
            f"no {what}: 1 no model, inputs or outputs given"
            for what in ("model", "inputs", "outputs")
        ],
        "no symbols: 1 no value given for batch",
        "size: 1 batch is 0, at least 1 expected",
        "size: 1 batch is -1, at least 1 expected",
        "size: 1 batch is 65, at most 64 expected",
        "size: 1 batch is -9223372036854775808, at least 1 expected",
        "size: 1 batch is 9223372036854775807, at most 64 expected",
        "run: 0",
        "shape: 0",
        "2 5",
        "shape of nothing: 1 no output 1",
        "shape of less: 1 no output -1",
        "shape of no size: 1 no value given for batch",
        "shape of wrong size: 1 batch is 65, at most 64 expected",
        "x float32 batch",
        "4 -1 12",
        "1 64",
        "1111",
        "memory 1 0",
    ]


def misaligned(content: bytes) -> bytes:
    """The same weights at another address: a space more in the header."""
    length = int.from_bytes(content[:8], "little")
    return (
        (length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :]
    )


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[:5],
    "header": lambda content: content[:100],
    "truncated": lambda content: content[:-64],
    "longer": lambda content: content + b"\0" * 64,
    "huge header": lambda content: b"\xff" * 8 + content[8:],
    "other header": lambda content: content.replace(b'"U8"', b'"I8"', 1),
    "misaligned": misaligned,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_weights(
    case: str, compiled: Compile, builds: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    path = tmp_path / WEIGHTS
    path.write_bytes(DAMAGE[case]((builds["images"] / WEIGHTS).read_bytes()))
    done = run([compiled(EXAMPLE, "images"), path, "1"], "0 " * 432)
    assert done.returncode == 1
    reasons = (f"cannot map {path} (", f"{path} is damaged or belongs to another model: ")
    assert done.stderr.startswith(reasons)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["other", "codes", "words"])
def test_weights_of_another_model(
    name: str, compiled: Compile, builds: dict[str, Path], run: Run
) -> None:
    path = builds[name] / WEIGHTS
    done = run([compiled(EXAMPLE, "images"), path, "1"], "0 " * 432)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path} is damaged or belongs to another model: ")


def test_weights_that_are_no_file(compiled: Compile, run: Run, tmp_path: Path) -> None:
    program = compiled(EXAMPLE, "images")
    assert run([program, tmp_path, "1"]).stderr.startswith(f"cannot map {tmp_path} (")
    long = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 250)
    assert run([program, long, "1"]).stderr.startswith(f"cannot open {tmp_path}")


def test_weights_are_the_same_bytes_every_time(
    builds: dict[str, Path], sources: dict[str, Path]
) -> None:
    for name in ("images", "codes", "words"):
        assert (builds[name] / WEIGHTS).read_bytes() == (sources[name] / WEIGHTS).read_bytes()


def test_threads_that_cannot_start(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    """Too little address space for 200 stacks: an error, and the threads that started are gone."""
    program = compiled(HERE / "many_threads.c", "images")
    limited = ["sh", "-c", 'ulimit -v 400000; exec "$0" "$@"', program]
    done = run([*limited, builds["images"] / WEIGHTS, "200"])
    assert done.stdout.startswith("cannot start thread ")
    assert done.stdout.endswith(" of 200\n1 task\n")
    done = run([*limited, builds["images"] / WEIGHTS, "2"])
    assert done.stdout == "opened\n2 tasks\n"


def test_memory_that_cannot_be_had(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    limited = ["sh", "-c", 'ulimit -v 1000000; exec "$0" "$@"', compiled(HERE / "huge.c", "wide")]
    done = run([*limited, builds["wide"] / WEIGHTS])
    assert done.returncode == 0
    refused, *others = done.stdout.splitlines()
    assert refused.startswith("cannot allocate ")
    assert refused.endswith(" bytes of working memory")
    assert int(refused.split()[2]) >= 2048 * 4 << 20
    assert others == ["ran", refused, "ran"]


def test_sizes_beyond_all_memory(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    """Products of sizes that 64 bits do not hold are refused before anything is computed."""
    done = run([compiled(HERE / "hostile.c", "vast"), builds["vast"] / WEIGHTS])
    assert (done.returncode, done.stderr) == (0, "")
    *refused, small, shape = done.stdout.splitlines()
    assert (small, shape) == ("ran", "shaped")
    assert len(refused) > 10
    assert set(refused) == {"tensors of these sizes fit in no memory"}


def test_a_copy_elsewhere_runs(builds: dict[str, Path], run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(builds["images"], tmp_path / "a, folder = elsewhere"))
    program = tmp_path / "main"
    link = ["-Xlinker", "-rpath", "-Xlinker", "$ORIGIN/a, folder = elsewhere", "-o", program]
    assert run(["cc", f"-I{folder}", EXAMPLE, folder / "model.so", *link]).returncode == 0
    done = run([program, os.path.relpath(folder / WEIGHTS), "1"], "0 " * 432)
    assert np.isfinite([float(line) for line in done.stdout.split()]).sum() == 5
