"""Attention of the pass `quantize`: codes where they are accurate enough, forms, refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.bits.quantize import Quantize
from effc.passes.lower.pipeline import SPELL_OUT
from effc.passes.manager import PassManager

INTEGER = "effc.attention_integer.default"
SDPA = "aten.scaled_dot_product_attention.default"


class Block(nn.Module):
    """Attention of three projections; `spread` makes a few keys a thousand times larger."""

    def __init__(self, spread: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(2, -1, 2, 16).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.spread:
            k = k * torch.where(k > 1.2, 1000.0, 1.0)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def blocks(spread: bool = False) -> Program:
    return traced(Block(spread), torch.randn(2, 50, 32))


def quantized(
    program: Program, batches: Any, target: str = "znver4", **options: Any
) -> tuple[Program, dict[str, Any]]:
    data = batches((2, 50, 32)) if options.pop("has_data", True) else None
    ctx = PassContext(target=Target.parse(target), calibration=data)
    report = PassManager((Quantize(**options),)).run(program, ctx)
    return report.program, report.rows[0].notes["layers"]


def test_factors_are_codes_of_their_own_range(batches: Any, calls: Any) -> None:
    program, notes = quantized(blocks(), batches)
    (node,) = calls(program, INTEGER)
    codes = node.args[:3]
    assert [op_name(one) for one in codes] == ["effc.quantize.default"] * 3
    scales = [attribute(program.forward, one.args[1].target) for one in codes]
    assert len({float(scale) for scale in scales}) == 3
    (note,) = [note for note in notes.values() if "softmax_sqnr_db" in note]
    assert note["activation"] == "static uint8"
    assert min(note["softmax_sqnr_db"], note["value_sqnr_db"]) > 32


def test_error_is_that_of_eight_bits(batches: Any, error_db: Any) -> None:
    """Of the values alone: scores of random projections are small, their error smaller."""
    program = blocks()
    found, _ = quantized(program, batches)
    only_layers, _ = quantized(program, batches, attention="float32")
    x = batches((2, 50, 32), 1)[0]
    assert error_db(program, found, x) > 27
    assert error_db(only_layers, found, x) > 30


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_predicted_error_of_the_weights_is_what_is_measured(batches: Any, size: float) -> None:
    """Within 2 dB: scores of codes beside those of numbers, over the calibration data."""

    class Scores(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k = x[:, :, :16] * size, x[:, :, 16:] + 0.5
            return functional.scaled_dot_product_attention(q, k, k)

    data = batches((2, 50, 32))
    program = traced(Scores(), data[0]["x"])
    _, notes = quantized(program, batches, attention="int8")
    (note,) = notes.values()
    x = torch.cat([batch["x"] for batch in data])
    q, k = x[:, :, :16] * size, x[:, :, 16:] + 0.5
    wrong = coded(q) @ coded(k).transpose(1, 2) - q @ k.transpose(1, 2)
    square, count = float(wrong.double().square().sum()) / 16, wrong.numel()
    assert note["softmax_sqnr_db"] == pytest.approx(-10 * np.log10(square / count), abs=2)


def coded(x: Tensor) -> Tensor:
    """Numbers rounded to 255 steps of their range."""
    step = (x.max() - x.min()) / 255
    return torch.round(x / step) * step


def test_rounding_fuses_with_the_projections(batches: Any, calls: Any) -> None:
    program, _ = quantized(blocks(), batches, activations="static")
    lowered = PassManager.parse(SPELL_OUT).run(program, PassContext()).program
    (node,) = calls(lowered, INTEGER)
    for factor in node.args[:3]:
        while op_name(factor) != "effc.requantize.default":
            assert op_name(factor) in ("aten.view.default", "aten.transpose.int")
            factor = factor.args[0]
    assert len(calls(lowered, "effc.requantize.default")) == 3


@pytest.mark.parametrize(
    ("spread", "target", "options", "expected"),
    [
        (False, "znver4", {}, INTEGER),
        (False, "x86-64-v3", {}, SDPA),  # no dot product of codes
        (False, "x86-64-v3", {"attention": "int8"}, INTEGER),
        (False, "znver4", {"attention": "bfloat16"}, SDPA),
        (False, "znver4", {"activations": "dynamic"}, SDPA),
        (False, "znver4", {"has_data": False}, SDPA),
        (True, "znver4", {}, SDPA),  # the small keys would drown
        (True, "znver4", {"attention": "int8"}, INTEGER),
    ],
)
def test_codes_are_chosen_where_they_pay_and_are_accurate(
    batches: Any, calls: Any, spread: bool, target: str, options: Any, expected: str
) -> None:
    program, _ = quantized(blocks(spread), batches, target, **options)
    assert len(calls(program, expected)) == 1


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_layers_that_read_and_feed_attention_directly(
    batches: Any, calls: Any, activations: Any
) -> None:
    """One head: no views between; the key is a linear's input, too."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.v, self.out = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(functional.scaled_dot_product_attention(self.q(x), x, self.v(x)))

    program = traced(Head(), torch.randn(2, 50, 32))
    found, _ = quantized(program, batches, activations=activations, attention="int8")
    (node,) = calls(found, INTEGER)
    assert node.args[1].args[0].op == "placeholder"
    x = batches((2, 50, 32), 1)[0]
    noise = program.run(x)["output"] - found.run(x)["output"]
    assert float(noise.square().mean()) < 1e-3 * float(program.run(x)["output"].square().mean())


def test_codes_need_calibration_data(batches: Any) -> None:
    with pytest.raises(UsageError, match="attention=int8 needs calibration data"):
        quantized(blocks(), batches, attention="int8", has_data=False)


def test_excluded_attention_stays(calls: Any, batches: Any) -> None:
    program = blocks()
    (node,) = calls(program, SDPA)
    ctx = PassContext(
        target=Target.parse("znver4"), calibration=batches((2, 50, 32)), exclude=(label(node),)
    )
    after = PassManager((Quantize(),)).run(program, ctx).program
    assert len(calls(after, SDPA)) == 1
