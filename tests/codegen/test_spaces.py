"""Every point of every family's space computes what its region computes in PyTorch."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effc.backends.tvm_cpu.build import fused_program
from effc.backends.tvm_cpu.library import Library
from effc.backends.tvm_cpu.trials import link_trial
from effc.codegen import select
from effc.codegen.cases import Recorder
from effc.codegen.isa import Isa
from effc.codegen.objects import write_object
from effc.codegen.schedule import Schedule, Space, distance, nothing_chosen, ordered, point_of
from effc.codegen.trial import Case, trial_executable
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, bind_sizes
from effc.ir.target import Target
from effc.ir.testing import EXACT, Tolerance, assert_close, traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.placement import place
from effc.passes.manager import PassManager

F = nn.functional
SUMS = Tolerance(relative=1e-5)
ROUNDED = Tolerance(relative=2**-7)  # one step of bfloat16
TARGETS = ("native", "x86-64-v3")
AT_ONCE = 6
INTEGER_CODES = "quantize-weights{bits=4 group=32}"
FLOAT_CODES = "quantize-weights{bits=3 group=64 symmetric=false activations=float32}"


class Layers(nn.Module):
    """Linear layers, convolutions, a matrix product, with odd sizes everywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 20, 3, 2, 1)
        self.wide = nn.Conv2d(20, 70, 3, padding=1)
        self.grouped = nn.Conv2d(70, 35, 1, groups=5)
        self.head = nn.Linear(35, 19)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.wide(x))
        x = self.grouped(x)
        rows = x.flatten(2).transpose(1, 2)
        return self.head(rows) @ rows.transpose(1, 2)[:, :19]


class Words(nn.Module):
    """A symbolic number of rows, an odd number of features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(33, 50)
        self.down = nn.Linear(50, 33)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Maps(nn.Module):
    """Depthwise convolutions with both strides, and a reduction of whole images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 37, 1)
        self.first = nn.Conv2d(37, 37, 3, 1, 1, groups=37)
        self.second = nn.Conv2d(37, 37, 5, 2, 2, groups=37)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.second(F.relu(self.first(x))))
        return x, x.amax((1, 2, 3)), x.sum()


class Rows(nn.Module):
    """Norms, a softmax, reductions of tensors (none that cancels), one long run of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(1000)

    def forward(self, x):
        return self.norm(x), x.softmax(-1), x.flatten(1).sum(1), x.abs().mean(), torch.sin(x) * 2


class Heads(nn.Module):
    """Attention to a few keys, in one block, and to many."""

    def forward(self, x):
        many = torch.cat([x] * 60, 2)
        attend = F.scaled_dot_product_attention
        return attend(x, x, x), attend(x, many, many)


class Codes(nn.Module):
    """Low-bit weights for a few rows and for many, the last group of features incomplete."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.few = nn.Linear(70, 90)
        self.many = nn.Linear(70, 50)

    def forward(self, x):
        return self.few(x[:, :3]), F.relu(self.many(x))


class Tokens(nn.Module):
    """A symbolic number of rows, the last group of features incomplete."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(70, 50)

    def forward(self, x):
        return F.relu(self.up(x))


SHAPES = {"codes": (2, 19, 70), "tokens": (2, 19, 70), "heads": (1, 2, 19, 8)}
SHAPES |= {"layers": (2, 3, 17, 13), "maps": (2, 3, 17, 13), "words": (2, 11, 33)}
SHAPES["rows"] = (2, 30, 1000)
MODULES = {
    "codes": Codes,
    "heads": Heads,
    "layers": Layers,
    "maps": Maps,
    "words": Words,
    "rows": Rows,
    "tokens": Tokens,
}


def program_of(kind: str, passes: str) -> Program:
    dynamic = {"x.1": "length"} if kind in ("words", "tokens") else None
    program = traced(MODULES[kind](), torch.randn(SHAPES[kind]), dynamic=dynamic)
    pipeline = PassManager.parse(f"{CLEAN},{passes}" if passes else CLEAN)
    return pipeline.run(program, PassContext()).program


@cache
def cases_of(kind: str, passes: str, target: str) -> tuple[Program, list[tuple[Case, Space]]]:
    """The kernels of a program that leave something open."""
    program, wanted = program_of(kind, passes), small(target)
    fused, _ = fused_program(program, wanted)
    x = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(1))
    name = program.signature.inputs[0].name
    sizes = bind_sizes(program.signature, program.symbols, {name: x})
    recorder = Recorder(fused, FORWARD, place(fused, FORWARD), {name: x}, sizes)
    found = []
    for case in recorder.cases(recorder.kernels).values():
        space = select.space(case.region, Isa.of(wanted))
        if len(space) > 1:
            found.append((case, space))
    return program, found


def small(target: str) -> Target:
    """A target with caches so small that scrubbing them takes no time."""
    return replace(Target.parse(target), cores=2, l2=1 << 16)


def is_half_attention(case: Case) -> bool:
    """Whether softmax weights are rounded to bfloat16 on the way."""
    anchor = case.region.anchor()
    return anchor is not None and op_name(anchor).startswith("effc.attention_half")


def check(program: Program, case: Case, schedules: list[Schedule], target: Target) -> None:
    """Build and run schedules of a kernel; compare with the region in PyTorch."""
    executable = trial_executable(case, schedules, Isa.of(target))
    symbols = list(program.symbols.values())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_object(list(executable.stages.values()), target, folder / "kernels.o")
        link_trial(executable, symbols, target, folder / "kernels.o")
        library = Library(folder / "model.so", folder / "weights.safetensors")
        outputs = [np.zeros(s.shape[0], np.uint8) for s in executable.signature.outputs]
        library.run([], outputs, [case.sizes[symbol.name] for symbol in symbols])
        library.close()
    memory = iter(outputs)
    for schedule in schedules:
        for result, expected in zip(case.results, case.expected, strict=True):
            found = result.tensor(next(memory))
            tolerance = SUMS if expected.is_floating_point() else EXACT
            if expected.dtype == torch.bfloat16 or is_half_attention(case):
                tolerance = ROUNDED
            assert_close(str(schedule), expected, found, tolerance)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        ("layers", ""),
        ("layers", "bfloat16"),
        ("layers", "quantize{activations=dynamic}"),
        ("words", ""),
        ("words", "bfloat16"),
        ("maps", ""),
        ("maps", "quantize{activations=dynamic}"),
        ("rows", ""),
        ("heads", ""),
        ("heads", "bfloat16"),
        ("codes", INTEGER_CODES),
        ("codes", FLOAT_CODES),
        ("tokens", INTEGER_CODES),
    ],
)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_points_of_spaces(kind, passes, target, data):
    program, cases = cases_of(kind, passes, target)
    case, space = data.draw(st.sampled_from(cases), label="kernel")
    points = data.draw(
        st.lists(st.sampled_from(space), min_size=2, max_size=AT_ONCE, unique=True), label="points"
    )
    check(program, case, points, small(target))


@pytest.mark.parametrize(
    ("kind", "passes", "least"),
    [("layers", "", 4), ("maps", "", 4), ("rows", "", 4), ("codes", INTEGER_CODES, 2)],
)
def test_the_default_comes_first_and_points_are_distinct(kind, passes, least):
    for target in TARGETS:
        _, cases = cases_of(kind, passes, target)
        assert len(cases) >= least
        for case, space in cases:
            assert len(set(space)) == len(space) <= 2000
            isa = Isa.of(small(target))
            default = select.build(case.region, isa, "k", case.symbols)
            first = select.build(case.region, isa, "k", case.symbols, space[0])
            texts = [[str(stage.function) for stage in k.stages] for k in (default, first)]
            assert texts[0] == texts[1]


def test_points_are_found_by_their_values():
    _, ((_, space), *_) = cases_of("words", "", "native")
    for point in space[:20]:
        assert point_of(space, point.values()) == point
    assert point_of(space, None) is None
    assert point_of(space, {"rows": 1}) is None
    assert point_of(space, {**space[0].values(), "rows": 99}) is None
    assert nothing_chosen("any") is None
    assert ordered(space, space[3])[0] == space[3]
    assert distance(space[0], space[0]) == 0
    assert str(space[0]).startswith("rows=")
