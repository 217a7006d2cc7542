"""`lower-blocks`: what is replaced, what is refused, what computes the same."""

import pytest
import torch
from torch import nn

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import EXACT, assert_same_outputs, traced
from effc.passes.base import Outcome, PassContext
from effc.passes.lower.blocks import LowerBlocks, density
from effc.passes.registry import parse_pipeline


def sparse(share: float) -> torch.Tensor:
    """Of 20 blocks of 16 by 1, a share is not zero."""
    weight = torch.ones(32, 10)
    held = torch.arange(20).reshape(2, 10) < 20 * share
    return weight * held.repeat_interleave(16, 0)


def lowered(share: float, bias: bool = False, **options: float) -> tuple[Program, Outcome]:
    net = nn.Linear(10, 32, bias)
    net.weight.data = sparse(share)
    program = traced(net, torch.randn(3, 10))
    after = program.clone()
    outcome = LowerBlocks(**options).run(after, PassContext())
    assert_same_outputs(program, after, tolerance=EXACT)
    return after, outcome


def has_blocks(program: Program) -> bool:
    return any("blocks" in op_name(node) for node in program.forward.graph.nodes)


@pytest.mark.parametrize(("share", "expected"), [(0.25, True), (0.8, True), (0.9, False)])
def test_few_enough_blocks(share: float, expected: bool) -> None:
    after, outcome = lowered(share)
    assert has_blocks(after) == outcome.changed == expected
    if expected:
        assert list(outcome.notes["densities"].values()) == [pytest.approx(share)]
    else:
        assert [one.reason for one in outcome.refusals] == [
            "too few blocks of its weight are all zeros: dense is faster"
        ]


def test_the_limit_is_an_option() -> None:
    assert not has_blocks(lowered(0.5, densest=0.4)[0])
    assert has_blocks(lowered(0.5, densest=0.6)[0])


def test_dense_weights_and_biases_are_left_alone() -> None:
    for share, bias in ((1.0, False), (0.25, True)):
        after, outcome = lowered(share, bias)
        assert not has_blocks(after)
        assert outcome.refusals == ()


def test_blocks_are_as_tall_as_vectors() -> None:
    weight = torch.zeros(32, 4)
    weight[0] = 1
    assert density(weight, None) == 0.5
    assert density(weight, Target.parse("x86-64-v3")) == 0.25
    assert density(weight.to(torch.int8), None) == 0.5
    assert density(torch.zeros(16, 3).to(torch.bfloat16), None) is None
    assert density(weight.half(), None) is None
    assert density(weight[:, 0], None) is None


def test_a_limit_that_is_no_number_is_an_error() -> None:
    with pytest.raises(UsageError, match="densest"):
        parse_pipeline("lower-blocks{densest=half}")
