"""The pass `bfloat16`, and the attention of `quantize`: forms of the graph, error, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.target import Target
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.bfloat16 import Bfloat16
from effc.passes.bits.quantize import Quantize
from effc.passes.manager import PassManager
from effc.passes.report import PipelineReport

CAST, SDPA = "aten._to_copy.default", "aten.scaled_dot_product_attention.default"


class Block(nn.Module):
    """One linear, and attention of what it computes with itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).view(2, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(2, -1, 16))


@pytest.fixture(scope="module")
def block() -> Program:
    return traced(Block(), torch.randn(2, 5, 16))


def applied(program: Program, step: Any, **context: Any) -> PipelineReport:
    return PassManager((step,)).run(program, PassContext(**context))


def test_both_factors_of_a_linear_are_rounded(block: Program, layer: Any) -> None:
    report = applied(block, Bfloat16())
    project = layer(report.program, "project")
    for factor in project.args[:2]:
        assert op_name(factor) == CAST
        assert factor.kwargs == {"dtype": torch.float32}
        assert factor.args[0].meta["val"].dtype == torch.bfloat16
    stored = attribute(report.program.forward, project.args[1].args[0].target)
    original = block.weights()["project.weight"]
    assert torch.equal(stored, original.bfloat16())
    assert report.rows[0].notes["layers"]["project"] == {
        "activation": "bfloat16",
        "weight": "bfloat16",
    }


def test_error_is_that_of_eight_significant_bits(block: Program, error_db: Any) -> None:
    """A factor has an error of at most 2^-9 of itself, so a product's is below 2^-8."""
    x = {"x": torch.randn(2, 5, 16)}
    assert 40 < error_db(block, applied(block, Bfloat16()).program, x) < 65


@pytest.mark.parametrize(
    ("step", "casts"),
    [(Bfloat16(), 10 + 4), (Bfloat16(layers=False), 6), (Bfloat16(attention=False), 8)],
)
def test_options_choose_what_is_rounded(block: Program, step: Bfloat16, casts: int) -> None:
    weights = 2 if step.layers else 0  # stored rounded: only the way back is a cast
    assert operators(applied(block, step).program)[CAST] == casts - weights


def test_excluded_and_foreign_products_are_left_alone(block: Program) -> None:
    report = applied(block, Bfloat16(), exclude=("out",))
    assert "out" not in report.rows[0].notes["layers"]
    assert [r["reason"] for r in report.rows[0].refusals] == ["excluded by the user"]
    twice = applied(report.program, Bfloat16(), exclude=("out",))
    assert twice.changed  # rounding again is allowed, and exact
    with pytest.raises(UsageError, match="'nothing' matches nothing"):
        applied(block, Bfloat16(), exclude=("nothing",))


def test_quantized_layers_are_left_alone(block: Program) -> None:
    quantized = applied(block, Quantize(attention="float32")).program
    report = applied(quantized, Bfloat16(attention=False))
    assert not report.changed
    assert {r["reason"] for r in report.rows[0].refusals} == {"it reads quantized values"}


@pytest.mark.parametrize(
    ("target", "option", "is_rounded"),
    [
        ("znver4", "auto", True),
        ("x86-64-v3", "auto", False),
        ("x86-64-v3", "bfloat16", True),
        ("znver4", "float32", False),
    ],
)
def test_quantize_rounds_attention_where_the_target_multiplies_bfloat16(
    block: Program, target: str, option: Any, is_rounded: bool
) -> None:
    report = applied(block, Quantize(attention=option), target=Target.parse(target))
    (attention,) = [n for n in report.program.forward.graph.nodes if op_name(n) == SDPA]
    assert (op_name(attention.args[0]) == CAST) is is_rounded
