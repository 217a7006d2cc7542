"""Fold identities: what goes, what must stay, and what it declines."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import (
    Function,
    assert_same_outputs,
    operators,
    random_inputs,
    recorded,
    traced,
)
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

ONES, ZEROS, ROW = torch.ones(3), torch.zeros(2, 3), torch.arange(3.0)
INTEGERS = torch.tensor([[3, -1, 2], [0, 4, 1]])

GONE = {
    "add 0": lambda x: x + 0,
    "0 plus": lambda x: 0.0 + x,
    "subtract 0": lambda x: x - 0,
    "times 1": lambda x: 1 * x,
    "divided by 1": lambda x: x / 1,
    "power 1": lambda x: x**1,
    "times a weight of ones": lambda x: x * ONES,
    "plus a weight of zeros": lambda x: ZEROS + x,
    "view to the same shape": lambda x: x.view(2, 3),
    "two views": lambda x: x.view(6).view(3, 2).view(2, 3),
    "expand to the same shape": lambda x: x.expand(2, 3),
    "identity permutation": lambda x: x.permute(1, 0).permute(1, 0),
    "whole slice": lambda x: x[:, 0:3],
    "cat of one": lambda x: torch.cat([x]),
    "repeat once": lambda x: x.repeat(1, 1),
    "pad nothing": lambda x: functional.pad(x, (0, 0)),
    "roll by 0": lambda x: x.roll(0, 1),
    "unsqueeze and squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "where true": lambda x: torch.where(torch.arange(3) >= 0, x, -x),
    "where false": lambda x: torch.where(torch.arange(3) < 0, -x, x),
    "filled where false": lambda x: x.masked_fill(torch.arange(3) > 5, 1.0),
    "cast and back": lambda x: x.double().float(),
    "pool of one": lambda x: functional.avg_pool2d(x.view(1, 2, 3), 1).view(2, 3),
    "average of one": lambda x: functional.adaptive_avg_pool2d(x.view(1, 2, 3), (2, 3)).view(2, 3),
}
KEPT = {
    "type promotion": (lambda x: INTEGERS + 0.0 * x, {"mul", "add"}),
    "integer to float": (lambda x: torch.arange(3) / 1 + x, {"arange", "div", "add"}),
    "other number": (lambda x: x * 2 + 1, {"mul", "add"}),
    "0 minus": (lambda x: torch.rsub(x, 0), {"rsub"}),
    "one-sided slice": (lambda x: x[:, 1:], {"slice"}),
    "slice by steps": (lambda x: x[:, ::2], {"slice"}),
    "flip": (lambda x: x.flip(1), {"flip"}),
    "lossy cast": (lambda x: x.half().float(), {"_to_copy"}),
    "undecided": (lambda x: torch.where(x > 0, x, -x), {"gt", "neg", "where"}),
    "decided for some": (lambda x: torch.where(ROW > 1, x, -x), {"gt", "neg", "where"}),
    "rank": (lambda x: x.expand(1, 2, 3), {"expand"}),
    "broadcast by ones": (lambda x: x * torch.ones(4, 1, 1), {"expand"}),
    "merged views": (lambda x: x.view(6).view(3, 2), {"view"}),
    "merged permutations": (
        lambda x: x.view(2, 3, 1).permute(1, 2, 0).permute(1, 0, 2),
        {"view", "permute"},
    ),
    "merged expansions": (
        lambda x: x[:, None].expand(2, 4, 3).expand(5, -1, -1, 3),
        {"unsqueeze", "expand"},
    ),
    "reshape that moves": (lambda x: x.t().reshape(6), {"permute", "reshape"}),
}
MASKS = {
    "all true": lambda x: (torch.arange(3) >= 0) & (x > 0),
    "all false": lambda x: (torch.arange(3) > 7) | (x > 0),
    "not false": lambda x: ~(torch.arange(3) < 0) & (x > 0),
    "logical": lambda x: torch.logical_and(torch.arange(3) < 3, x > 0),
    "difference of positions": lambda x: (torch.arange(3) <= torch.arange(3) + 1) & (x > 0),
    "weights": lambda x: (INTEGERS > -2) & (x > 0),
    "never equal": lambda x: (INTEGERS != 9) & (x > 0),
}


def folded(program: Program) -> tuple[Program, PassRow]:
    report = PassManager.parse("canonicalize,fold-identities").run(program)
    return report.program, report.rows[1]


@pytest.mark.parametrize("name", GONE)
def test_identities_go(name: str) -> None:
    before = recorded(lambda x: GONE[name](x.relu()), x=torch.randn(2, 3))
    after, _ = folded(before)
    assert operators(after) == {"aten.relu.default": 1}
    assert_same_outputs(before, after)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_identity_stays(name: str) -> None:
    function, expected = KEPT[name]
    before = recorded(function, x=torch.randn(2, 3))
    after, _ = folded(before)
    assert {op.split(".")[1] for op in operators(after)} == expected
    assert_same_outputs(before, after)


@pytest.mark.parametrize("name", MASKS)
def test_decided_masks_go(name: str) -> None:
    before = recorded(MASKS[name], x=torch.randn(2, 3))
    after, _ = folded(before)
    assert operators(after) == {"aten.gt.Scalar": 1}
    assert_same_outputs(before, after)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_comparisons_at_the_border(shift: int) -> None:
    before = recorded(lambda x: x * (torch.arange(3) >= shift), x=torch.randn(2, 3))
    after, _ = folded(before)
    assert ("aten.ge.Scalar" in operators(after)) == (shift == 1)
    assert_same_outputs(before, after)


def attention(x: Tensor, mask: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(x, x, x, mask)


@pytest.mark.parametrize("mask", [torch.ones(3, 3, dtype=torch.bool), torch.zeros(3, 3)])
def test_a_mask_that_hides_nothing_goes(mask: Tensor) -> None:
    before = recorded(lambda x: attention(x, mask), x=torch.randn(1, 3, 4))
    after, _ = folded(before)
    (node,) = [n for n in after.forward.graph.nodes if n.op == "call_function"]
    assert node.args[3] is None
    assert_same_outputs(before, after)


def test_a_mask_that_hides_something_stays() -> None:
    mask = torch.ones(3, 3).tril().bool()
    before = recorded(lambda x: attention(x, mask), x=torch.randn(1, 3, 4))
    after, row = folded(before)
    assert not row.changed
    assert_same_outputs(before, after)


INDICES = {
    "a view": (lambda x: x[torch.arange(2)[:, None], torch.arange(3)[None, :]], None),
    "more dimensions": (
        lambda x: x[torch.arange(2)[:, None, None], torch.arange(3)[None, None, :]],
        None,
    ),
    "reordered": (
        lambda x: x[torch.arange(2)[None, :], torch.arange(3)[:, None]],
        "the index reorders or repeats dimensions",
    ),
    "repeated": (
        lambda x: x[torch.arange(2)[:, None, None] + torch.zeros(4, 1, dtype=int), torch.arange(3)],
        "the index repeats elements",
    ),
}


@pytest.mark.parametrize("name", INDICES)
def test_counting_indices(name: str) -> None:
    function, reason = INDICES[name]
    before = recorded(function, x=torch.randn(2, 3))
    after, row = folded(before)
    assert [refusal["reason"] for refusal in row.refusals] == ([reason] if reason else [])
    assert ("aten.index.Tensor" in operators(after)) == (reason is not None)
    assert_same_outputs(before, after)


def test_other_indices_are_not_touched() -> None:
    before = recorded(lambda x: x[torch.tensor([1, 0])], x=torch.randn(2, 3))
    after, row = folded(before)
    assert operators(after) == {"aten.index.Tensor": 1}
    assert row.refusals == []


def test_sizes_that_nothing_else_computes_are_built() -> None:
    def twice(x: Tensor) -> Tensor:
        ones = torch.arange(2 * x.shape[0]) >= 0
        return torch.cat([x, x]) + torch.where(ones, 1.0, 2.0)[:, None]

    before = traced(Function(twice), torch.randn(3, 2), dynamic={"x.0": "batch"})
    after, _ = folded(before)
    assert operators(after)["aten.full.default"] == 1
    assert "aten.arange.default" not in operators(after)
    for batch in (1, 4):
        assert_same_outputs(before, after, random_inputs(before, {"batch": batch}))


def test_strides_decide_between_view_and_reshape() -> None:
    before = recorded(lambda x: (x.t().contiguous() * 1).view(6), x=torch.randn(2, 3))
    after, _ = folded(before)
    names = [op_name(node) for node in after.forward.graph.nodes if node.op == "call_function"]
    assert names == ["aten.permute.default", "aten.reshape.default"]
    assert_same_outputs(before, after)
