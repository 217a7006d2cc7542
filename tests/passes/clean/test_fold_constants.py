"""Fold constants: what is computed, what is kept, and that weights stay untouched."""

import pytest
import torch
from torch import Tensor

from effc.ir import ops
from effc.ir.program import Program
from effc.ir.testing import Function, assert_same_outputs, operators, recorded, traced
from effc.passes.base import PassContext
from effc.passes.clean.fold_constants import FoldConstants
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

WEIGHT = torch.arange(6.0).reshape(2, 3)
ONCE = "the result takes more than 1 times the bytes of what it replaces"
TOO_LARGE = "the result takes more than 4 times the bytes of what it replaces"


def folded(program: Program, options: str = "") -> tuple[Program, PassRow]:
    report = PassManager.parse(f"fold-constants{options}").run(program)
    return report.program, report.rows[0]


def test_a_chain_is_folded_at_its_end() -> None:
    before = recorded(lambda x: x @ (WEIGHT.exp() + 1).t(), x=torch.randn(4, 3))
    after, row = folded(before)
    assert operators(after) == {"aten.matmul.default": 1}
    assert row.notes == {"folded": 1}
    assert_same_outputs(before, after)


def test_parts_of_several_results_are_folded() -> None:
    def split(x: Tensor) -> Tensor:
        first, second = WEIGHT.split(1)
        return x * first + second

    before = recorded(split, x=torch.randn(4, 3))
    after, row = folded(before)
    assert operators(after) == {"aten.mul.Tensor": 1, "aten.add.Tensor": 1}
    assert row.notes == {"folded": 2}
    assert_same_outputs(before, after)


def test_views_of_weights_become_weights_of_their_own() -> None:
    before = recorded(lambda x: x @ WEIGHT.t() + WEIGHT.sum(), x=torch.randn(4, 3))
    after, _ = folded(before)
    storages = {tensor.untyped_storage().data_ptr() for tensor in after.weights().values()}
    assert WEIGHT.untyped_storage().data_ptr() not in storages
    assert all(tensor.is_contiguous() for tensor in after.weights().values())


def test_small_created_tensors_become_weights() -> None:
    before = recorded(lambda x: x + torch.arange(3) + torch.zeros(3), x=torch.randn(4, 3))
    after, _ = folded(before)
    assert operators(after) == {"aten.add.Tensor": 2}
    assert sorted(after.weights()) == ["constant", "constant_1"]


def test_symbolic_sizes_are_not_constant() -> None:
    module = Function(lambda x: x + torch.arange(x.shape[0])[:, None])
    before = traced(module, torch.randn(4, 3), dynamic={"x.0": "batch"})
    after, row = folded(before)
    assert not row.changed
    assert_same_outputs(before, after)


def test_dequantized_weights_stay() -> None:
    codes, scale = WEIGHT.to(torch.int8), torch.tensor(0.5)
    assert ops.quantization

    def dequantized(x: Tensor) -> Tensor:
        return x @ torch.ops.effc.dequantize(codes, scale * 2, None).t()

    before = recorded(dequantized, x=torch.randn(4, 3))
    after, _ = folded(before)
    expected = ("effc.dequantize.default", "aten.t.default", "aten.matmul.default")
    assert operators(after) == dict.fromkeys(expected, 1)
    assert_same_outputs(before, after)


@pytest.mark.parametrize(
    ("function", "is_folded"),
    [
        (lambda x: x + WEIGHT.expand(5, 2, 3), False),
        (lambda x: x + WEIGHT.expand(4, 2, 3).exp(), True),
        (lambda x: x + WEIGHT.exp().expand(5, 2, 3), False),
        (lambda x: x + torch.zeros(2, 3), False),
        (lambda x: x + WEIGHT.repeat(4, 1, 1) + WEIGHT, False),
        (lambda x: x + WEIGHT.to(torch.int8).repeat(2, 1, 1).float(), True),
    ],
)
def test_large_results_are_declined(function: Function, is_folded: bool) -> None:
    before = recorded(function, x=torch.randn(1, 2, 3).expand(1, 2, 3))
    after, row = folded(before, "{max_bytes=8}")
    assert ([refusal["reason"] for refusal in row.refusals] == []) == is_folded
    assert is_folded or row.refusals[0]["reason"] == TOO_LARGE
    assert_same_outputs(before, after)


def test_codes_may_not_grow() -> None:
    codes = torch.ones(2, 3, dtype=torch.int8)
    before = recorded(lambda x: x + codes.int(), x=torch.randn(2, 3))
    after, row = folded(before, "{max_bytes=8}")
    assert [refusal["reason"] for refusal in row.refusals] == [ONCE]
    assert not row.changed
    assert_same_outputs(before, after)


def test_the_pass_runs_without_a_manager() -> None:
    program = recorded(lambda x: x + WEIGHT.exp(), x=torch.randn(2, 3))
    outcome = FoldConstants().run(program, PassContext())
    assert outcome.changed
    assert list(program.weights()) == ["_tensor_constant0_folded"]
