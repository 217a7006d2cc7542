"""The generated C: it compiles without a warning, says what the program says, and finds weights."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from safetensors import safe_open
from torch import nn
from torch.utils._sympy.functions import FloorDiv

from effc.backends.runner import Model
from effc.backends.tvm_cpu.weights import weight_header, write_weights
from effc.candidate import build_candidate
from effc.codegen.driver.expressions import c_expression, c_text
from effc.codegen.driver.weights import Stored, WeightFile, fnv1a
from effc.codegen.executable import Executable
from effc.ir.errors import BuildError
from effc.ir.program import Program
from effc.ir.symbols import Size, named
from effc.ir.target import Target
from effc.ir.testing import ROUNDING, assert_close, traced

Run = Callable[..., Any]
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion"]
# Sizes are signed and C's own functions take unsigned ones; kernels take plain pointers.
DOCUMENTED = ["-Wno-sign-conversion", "-Wno-unknown-pragmas"]


@pytest.mark.parametrize("name", ["images", "codes", "words", "other"])
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_no_warnings(
    name: str, level: str, sources: dict[str, Path], driver: Path, run: Run
) -> None:
    command = ["gcc", *STRICT, *DOCUMENTED, level, f"-I{driver}", "-c", "-o", "/dev/null"]
    done = run([*command, sources[name] / "model.c"])
    assert (done.returncode, done.stderr) == (0, "")


def test_the_header_is_cplusplus_and_old_c(driver: Path, run: Run) -> None:
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    for language in (["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]):
        done = run([*command, *language, driver / "effc.h"])
        assert "error" not in done.stderr.replace("pragma once", "")
        assert done.returncode == 0


@pytest.mark.parametrize("name", ["images", "codes", "words"])
def test_weights_lie_where_the_driver_looks(
    name: str, executables: dict[str, Executable], sources: dict[str, Path]
) -> None:
    """`safetensors` itself reads the file, and finds every weight at the driver's offset."""
    weights, path = executables[name].weights, sources[name] / "weights.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    layout = WeightFile.of(weights, weight_header(weights))
    assert start % 64 == 0
    assert len(content) == start + layout.nbytes
    assert layout.header == content[8:start]
    with safe_open(path, "numpy") as file:
        labels, kinds = list(file.keys()), file.metadata()
        assert len(labels) == len(weights) > 3
        for label, (key, value) in zip(labels, weights.items(), strict=True):
            assert label.endswith(f".{key}")
            form = Stored.of(key, value)
            assert kinds[label] == f"{value.dtype}{list(value.shape)}{form.text}"
            stored, written = file.get_tensor(label).tobytes(), form.content(value).tobytes()
            assert form.is_packed or written == value.tobytes()
            assert stored[: len(written)] == written
            assert not any(stored[len(written) :])
            at = start + layout.offsets[key]
            assert at % 64 == 0
            assert content[at : at + len(stored)] == stored


def test_weights_of_every_kind(tmp_path: Path) -> None:
    weights = {
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float64),
        "bools": np.array([True, False]),
        "turned": np.arange(6, dtype=np.int16).reshape(2, 3).T,
        'a "name"\n\u00fc': np.arange(65, dtype=np.uint8),
    }
    path = tmp_path / "weights.safetensors"
    write_weights(weights, path)
    with safe_open(path, "numpy") as file:
        for label, value in zip(file.keys(), weights.values(), strict=True):
            found = file.get_tensor(label)[: value.nbytes].view(value.dtype)
            np.testing.assert_array_equal(found, np.ravel(value))
    write_weights({}, path)
    with safe_open(path, "numpy") as file:
        assert list(file.keys()) == []


def test_the_hash() -> None:
    """The published test vectors of FNV-1a with 64 bits."""
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


A, B = named("a"), named("b")


def random_size(chance: random.Random, depth: int) -> tuple[Size, Callable[[int, int], int]]:
    """A random expression of what shapes are made of, and the same in Python's integers.

    Values in between may be below zero. Remainders are of plain sums: sympy's own rules for
    remainders of remainders are wrong.
    """
    if depth == 0:
        plus = chance.randint(-9, 9)
        leaves: list[tuple[Size, Callable[[int, int], int]]] = [
            (A + plus, lambda a, b: a + plus),
            (A * B, lambda a, b: a * b),
            (B - A, lambda a, b: b - a),
            (sympy.Mod(A + plus, 7), lambda a, b: (a + plus) % 7),
        ]
        return chance.choice(leaves)
    (left, f), (right, g) = random_size(chance, depth - 1), random_size(chance, depth - 1)
    by = chance.choice([2, 3, 7, 64])
    choices: list[tuple[Size, Callable[[int, int], int]]] = [
        (left + right, lambda a, b: f(a, b) + g(a, b)),
        (left - right, lambda a, b: f(a, b) - g(a, b)),
        (left * right, lambda a, b: f(a, b) * g(a, b)),
        (left**2, lambda a, b: f(a, b) ** 2),
        (FloorDiv(left, sympy.Integer(by)), lambda a, b: f(a, b) // by),
        (sympy.floor(left / by), lambda a, b: f(a, b) // by),
        (sympy.Max(left, right), lambda a, b: max(f(a, b), g(a, b))),
        (sympy.Min(left, right, 5), lambda a, b: min(f(a, b), g(a, b), 5)),
    ]
    return chance.choice(choices)


def arithmetic(driver: Path) -> str:
    """The functions expressions call, without the driver around them."""
    memory = (driver / "memory.c").read_text()
    functions = memory.partition("/* Arithmetic of sizes")[2].partition("*/")[2]
    return functions.partition("/* Bytes of a buffer")[0]


def test_sizes_in_c_equal_sizes_in_python(driver: Path, run: Run, tmp_path: Path) -> None:
    """Without notes where values are small; with notes, which say what 64 bits do not hold."""
    chance = random.Random(0)
    sizes = [random_size(chance, number % 3) for number in range(150)]
    sizes += [
        (1 << 40, lambda a, b: 1 << 40),
        (sympy.Integer(-(1 << 40)), lambda a, b: -(1 << 40)),
        (sympy.Integer(1 << 33) * A, lambda a, b: a << 33),
    ]
    source, program = tmp_path / "sizes.c", tmp_path / "sizes"
    show = 'printf("%" PRId64 "\\n", (int64_t){});'
    calls = [
        f"if (c > 3) {{ int n = 0; int64_t s = {c_expression(size, '&n')};"
        f' if (n) puts("large"); else {show.format("s")} }}'
        f" else {show.format(c_expression(size))}"
        for size, _ in sizes
    ]
    source.write_text(
        "#include <inttypes.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        + arithmetic(driver)
        + "\nint main(int c, char **v) { int64_t s_a = atoll(v[1]), s_b = atoll(v[2]);\n"
        + "\n".join(calls)
        + "}\n"
    )
    assert run(["gcc", "-fsanitize=undefined", source, "-o", program]).returncode == 0
    for a, b in [(1, 1), (2, 5), (7, 3), (24, 23), (63, 64)]:
        expected = [str(meant(a, b)) for _, meant in sizes]
        for noted in ([], ["noted"]):
            assert run([program, a, b, *noted]).stdout.split() == expected
    for a, b in [(2**62, 1), (2**40, 2**40), (2**62, 2**62), (3, 2**63 - 1)]:
        done = run([program, a, b, "noted"])
        assert done.stderr == ""
        for (_, meant), found in zip(sizes, done.stdout.split(), strict=True):
            assert found == "large" or int(found) == meant(a, b)
            assert found == "large" or abs(meant(a, b)) < 2**63
        assert "large" in done.stdout.split()


@pytest.mark.parametrize("size", [A / 2, sympy.sqrt(A), A**B, sympy.Rational(1, 2) + A])
def test_sizes_that_are_none(size: Size) -> None:
    with pytest.raises(BuildError, match=r"^size .* cannot be computed in C$"):
        c_expression(size)


HOSTILE = [
    'quote " and \\ and \\n',
    "*/ int broken; /*",
    "line\nbreak\r\ttab",
    "trigraph ??/ ??'",
    "%s %n %d",
    "gr\u00f6\u00dfe \u5927 \U0001f600",
    "digits \x01" + "7f",
    "",
]


def test_texts_in_c_equal_texts(run: Run, tmp_path: Path) -> None:
    source, program = tmp_path / "texts.c", tmp_path / "texts"
    puts = "".join(f"fwrite(t{i}, 1, sizeof t{i}, stdout);" for i in range(len(HOSTILE)))
    texts = "".join(f"static const char t{i}[] = {c_text(t)};\n" for i, t in enumerate(HOSTILE))
    source.write_text(f"#include <stdio.h>\n{texts}int main(void) {{ {puts} }}\n")
    command = ["gcc", "-std=c99", "-trigraphs", "-Wall", "-Werror", source, "-o", program]
    done = run(command)
    assert (done.returncode, done.stderr) == (0, "")
    shown = tmp_path / "shown"
    assert run(["sh", "-c", f"{program} > {shown}"]).returncode == 0
    assert shown.read_bytes() == b"".join(text.encode() + b"\0" for text in HOSTILE)


NAMES = ["a*/b", "100%s", "gr\u00f6\u00dfe", "\u5927\U0001f600", "what ??/"]


def test_modules_of_any_name(tmp_path: Path) -> None:
    """Names of modules become names of steps, whatever they hold."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({name: nn.Linear(4, 4) for name in NAMES})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers.values():
                x = layer(x).tanh()
            return x

    x = torch.ones(2, 4)
    program: Program = traced(Named(), x)
    model: Model = build_candidate("named", program, Target.parse("native"), tmp_path, []).model
    expected = program.run({"x": x})["output"]
    assert_close("output", expected, model(x), ROUNDING[torch.float32])
    steps = [name for name, _ in model.session.profile({"x": x.numpy()})]
    assert [any(name in step for step in steps) for name in NAMES] == [True] * len(NAMES)
    model.close()
