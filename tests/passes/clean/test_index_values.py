"""Affine forms and bounds against the values the program really computes."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from effc.ir.program import Program
from effc.ir.testing import Function, recorded, traced
from effc.passes.clean.bounds import bounds, shared_value
from effc.passes.clean.index_values import Affine, affine, iota_dimension
from effc.passes.manager import PassManager

Step = Callable[[Tensor], Tensor]
STEPS: dict[str, Step] = {
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "in front": lambda x: x.unsqueeze(0),
    "expand": lambda x: x.unsqueeze(0).expand(3, *x.shape),
    "permute": lambda x: x.permute(*reversed(range(x.dim()))),
    "slice": lambda x: torch.ops.aten.slice(x, 0, 1, 9, 1) if x.shape[0] > 1 else x,
    "every second": lambda x: torch.ops.aten.slice(x, x.dim() - 1, 0, 99, 2),
    "select": lambda x: torch.ops.aten.select(x, 0, x.shape[0] - 1) if x.dim() > 1 else x,
    "add": lambda x: x + 3,
    "subtract": lambda x: x - 7,
    "scale": lambda x: x * -2,
    "add counting": lambda x: x + torch.arange(x.shape[-1]),
    "subtract weight": lambda x: x - torch.arange(0, 2 * x.shape[-1], 2),
    "cast": lambda x: torch.ops.aten._to_copy(x, dtype=torch.int32),
}


def output_of(program: Program) -> fx.Node:
    return program.forward.graph.output_node().args[0][0]


def values_of(form: Affine, shape: torch.Size) -> Tensor:
    result = torch.full(shape, form.base)
    for position, step in enumerate(form.steps):
        counting = torch.arange(shape[position])
        result += step * counting.view(-1, *[1] * (len(shape) - position - 1))
    return result


@settings(max_examples=40)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=6), st.integers(1, 5))
def test_affine_forms_equal_what_is_computed(names: list[str], count: int) -> None:
    def compute(x: Tensor) -> Tensor:
        positions = torch.ops.aten.arange(count)
        for name in names:
            positions = STEPS[name](positions)
        return positions

    program = PassManager.parse("canonicalize").run(recorded(compute, x=torch.zeros(1))).program
    actual = program.run({"x": torch.zeros(1)})["output"]
    form = affine(output_of(program))
    assert form is not None
    assert torch.equal(values_of(form, actual.shape), actual.long())
    low, high = bounds(output_of(program))
    assert (low, high) == (int(actual.min()), int(actual.max()))


UNKNOWN = {
    "input": lambda x: x,
    "square": lambda x: (p := torch.arange(4)) * p + x,
    "sum with input": lambda x: x + torch.arange(4),
    "flattened": lambda x: torch.ops.aten.view(torch.arange(4).view(2, 2).t().contiguous(), [4]),
    "weight that is no line": lambda x: torch.tensor([0, 1, 2, 4]).view(4),
    "negative index": lambda x: torch.arange(4)[torch.arange(4) - 1],
    "scaled sum": lambda x: torch.add(torch.arange(4), torch.arange(4), alpha=2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_tensors_have_no_affine_form(name: str) -> None:
    program = recorded(UNKNOWN[name], x=torch.zeros(4, dtype=torch.int64))
    assert affine(output_of(program)) is None
    assert iota_dimension(output_of(program)) is None


def test_symbolic_sizes_have_open_bounds() -> None:
    module = Function(lambda x: torch.arange(x.shape[0]) - 2)
    program = traced(module, torch.zeros(3), dynamic={"x.0": "batch"})
    assert affine(output_of(program)) == Affine(-2, (1,))
    assert bounds(output_of(program)) == (-2, math.inf)
    assert iota_dimension(output_of(program)) is None


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: torch.diff(torch.arange(4) * 3), 3),
        (lambda x: torch.diff(torch.arange(4), prepend=torch.arange(1) - 1), 1),
        (lambda x: torch.full((2, 2), 7.5).expand(3, 2, 2), 7.5),
        (lambda x: torch.tensor([[2.0, 2.0]]).view(2), 2.0),
        (lambda x: torch.cumsum(torch.arange(4) < 0, 0), 0),
        (lambda x: torch.diff(torch.arange(4), prepend=torch.arange(1)), None),
        (lambda x: torch.tensor([2.0, 2.5]) * 1, None),
        (lambda x: x * 0, None),
    ],
)
def test_shared_values(function: Step, expected: float | None) -> None:
    program = recorded(function, x=torch.zeros(2))
    canonical = PassManager.parse("canonicalize").run(program).program
    assert shared_value(output_of(canonical)) == expected
