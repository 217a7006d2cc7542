"""`merge-factors`: what factors compute, in one linear."""

import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, assert_same_outputs, traced
from effc.passes.base import Outcome, PassContext
from effc.passes.factorize.factorize_linears import FactorizeLinears
from effc.passes.factorize.merge_factors import MergeFactors


class Pair(nn.Module):
    def __init__(self, rank: int, first_bias: bool, second_bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(12, rank, first_bias)
        self.second = nn.Linear(rank, 20, second_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).relu()


def merged(program: Program, above: float = 1.0) -> tuple[Program, Outcome]:
    copy = program.clone()
    return copy, MergeFactors(above).run(copy, PassContext())


def linears(program: Program) -> int:
    return sum(op_name(node) == "aten.linear.default" for node in program.forward.graph.nodes)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
def test_one_linear_computes_the_same(biases: tuple[bool, bool]) -> None:
    before = traced(Pair(10, *biases), torch.randn(3, 12))
    after, outcome = merged(before)
    assert (linears(before), linears(after)) == (2, 1)
    assert outcome.notes["merged"] == ["second"]
    assert_same_outputs(before, after, tolerance=ROUNDING[torch.float32])


def test_factors_that_save_stay_unless_asked_for() -> None:
    before = traced(Pair(4, True, True), torch.randn(3, 12))
    after, outcome = merged(before)
    assert not outcome.changed
    assert linears(after) == 2
    assert outcome.refusals[0].reason == "its factors are smaller than their product"
    assert linears(merged(before, above=0.5)[0]) == 1


def test_it_undoes_a_factorisation() -> None:
    torch.manual_seed(0)
    before = traced(nn.Linear(64, 64), torch.randn(3, 64))
    factors = before.clone()
    FactorizeLinears(whiten=False, ratio=0.5).run(factors, PassContext())
    after, _ = merged(factors, above=0.0)
    assert (linears(factors), linears(after)) == (2, 1)
    assert_same_outputs(factors, after, tolerance=ROUNDING[torch.float32])


def test_what_others_read_stays() -> None:
    class Shared(Pair):
        def forward(self, x: Tensor) -> Tensor:
            middle = self.first(x)
            return self.second(middle) + middle.sum(-1, keepdim=True)

    after, outcome = merged(traced(Shared(10, True, True), torch.randn(3, 12)))
    assert linears(after) == 2
    assert outcome.notes["merged"] == []


@pytest.mark.parametrize("excluded", ["first", "second"])
def test_what_is_excluded_stays(excluded: str) -> None:
    after = traced(Pair(10, True, True), torch.randn(3, 12))
    outcome = MergeFactors().run(after, PassContext(exclude=(excluded,)))
    assert linears(after) == 2
    assert not outcome.changed


def test_a_negative_share_is_an_error() -> None:
    with pytest.raises(UsageError, match="is negative"):
        merged(traced(nn.Linear(4, 4), torch.randn(2, 4)), above=-1)
