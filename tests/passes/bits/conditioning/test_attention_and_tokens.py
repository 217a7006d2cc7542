"""Attention weights on a shifted logarithmic scale, and constant tokens taken out."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.testing import Tolerance, assert_same_outputs, operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.conditioning.quantize_softmax import SHIFTS, QuantizeSoftmax
from effc.passes.manager import PassManager

CLOSE = Tolerance(relative=2e-5)


class Attention(nn.Module):
    """A class token in front of others, and one block of attention."""

    def __init__(self, is_causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(30 * torch.randn(1, 1, 16))
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 4, bias=False)
        self.is_causal = is_causal

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        query, key, value = (
            one(x).view(x.shape[0], -1, 2, 8).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        return self.last(mixed.transpose(1, 2).flatten(2))


@pytest.fixture
def program() -> Program:
    return traced(Attention(), torch.randn(2, 5, 16), dynamic={"x.0": "batch"})


@pytest.fixture
def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(8, 5, 16, generator=generator)} for _ in range(2)]


def run(program: Program, data, pipeline: str):
    return PassManager.parse(pipeline).run(program, PassContext(calibration=data))


def test_the_scale_by_hand():
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((200, 9)) * 3
    values = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    errors = []
    for shift in SHIFTS:
        y = np.log2(values + shift)
        codes = np.round((y - y.min()) / (y.max() - y.min()) * 7)
        exponents = np.round(codes * (y.max() - y.min()) / 7 + y.min())
        errors.append((((2.0**exponents - shift) - values) ** 2).sum())
    given = torch.from_numpy(values).float()
    chosen = QuantizeSoftmax(bits=3).chosen(given)
    assert chosen.shift == SHIFTS[int(np.argmin(errors))]
    found = float((chosen(given) - given).square().sum())
    assert found == pytest.approx(min(errors), rel=0.02)


def test_attention_is_taken_apart(program, data, error_db):
    found = {}
    for bits in (3, 8):
        report = run(program, data, f"quantize-softmax{{bits={bits}}}")
        counts = operators(report.program)
        assert counts["aten.scaled_dot_product_attention.default"] == 0
        assert counts["aten.exp2.default"] == 1
        found[bits] = error_db(program, report.program, data[0])
    assert 8 < found[3] <= found[8] + 1
    (note,) = report.rows[0].notes["softmax"].values()
    assert note["shift"] in SHIFTS


def test_what_stays_whole(data):
    causal = traced(Attention(is_causal=True), torch.randn(2, 5, 16), dynamic={"x.0": "batch"})
    rows = run(causal, data, "quantize-softmax").rows
    reasons = [one["reason"] for one in rows[0].refusals]
    assert reasons == ["causal and grouped attention, and dropout, stay whole"]
    for pipeline in ("quantize-softmax", "peel-tokens"):
        with pytest.raises(UsageError, match="needs data; give --calib"):
            run(causal, None, pipeline)
    with pytest.raises(UsageError, match="bits=9; there are 2 to 8"):
        run(causal, data, "quantize-softmax{bits=9}")


def test_constant_tokens(program, data, error_db):
    report = run(program, data, "peel-tokens")
    assert_same_outputs(program, report.program, data[0], CLOSE)
    assert set(report.rows[0].notes["peeled"]) == {"query", "key", "value"}
    (refusal,) = report.rows[0].refusals
    assert refusal["sources"] == ["last"]
    assert refusal["reason"] == "its first token is no constant"
    static = "quantize{activations=static observer=minmax attention=float32}"
    found = [
        error_db(program, run(program, data, text).program, data[0])
        for text in (static, f"peel-tokens,{static}")
    ]
    assert found[1] > found[0] + 6
