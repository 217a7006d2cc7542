"""One-dimensional convolutions as images of one row: same outputs, one form, what is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.ops import quantization
from effc.ir.opspec import op_name
from effc.ir.rewrite import apply
from effc.ir.testing import ROUNDING, assert_same_outputs, operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.bfloat16 import Bfloat16
from effc.passes.bits.quantize import Quantize
from effc.passes.clean.one_row import ONE_ROW
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import SPELL_OUT
from effc.passes.manager import PassManager

assert quantization


class Signal(nn.Module):
    """A stem as speech models have it, and a grouped, dilated convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(6, 8, 3, padding=1)
        self.second = nn.Conv1d(8, 8, 3, stride=2, padding=1)
        self.third = nn.Conv1d(8, 4, 5, dilation=2, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.second(functional.gelu(self.first(x))))
        return self.third(x * 2.0 + 1.0).permute(0, 2, 1)


@pytest.fixture
def program():
    return PassManager.parse(CLEAN).run(traced(Signal(), torch.randn(2, 6, 31))).program


def test_outputs_stay_and_only_ends_lose_their_row(program):
    after = program.clone()
    rewrites = apply(after, ONE_ROW)
    assert rewrites.fired["convolution-1d"] == 3
    found = {name.split(".")[1]: count for name, count in operators(after).items()}
    assert found["conv2d"] == 3
    assert found["unsqueeze"] == found["squeeze"] == 1
    assert_same_outputs(program, after, tolerance=ROUNDING[torch.float32])


def test_a_signal_without_batch_is_left_alone():
    program = PassManager.parse(CLEAN).run(traced(nn.Conv1d(2, 3, 3), torch.randn(2, 9))).program
    convolutions = [n for n in program.forward.graph.nodes if op_name(n) == "aten.conv1d.default"]
    rewrites = apply(program, ONE_ROW)
    assert len(convolutions) == 1
    assert not rewrites.fired
    assert [refusal.reason for refusal in rewrites.refusals] == ["its input has no batch dimension"]


@pytest.mark.parametrize(
    ("step", "form"), [(Quantize(), "conv2d_integer"), (Bfloat16(), "conv2d_half")]
)
def test_layers_become_products_of_codes_or_halves(program, step, form):
    report = PassManager((step,)).run(program, PassContext())
    assert set(report.rows[0].notes["layers"]) == {"first", "second", "third"}
    lowered = PassManager.parse(SPELL_OUT).run(report.program).program
    names = [op_name(node) for node in lowered.forward.graph.nodes]
    assert names.count(f"effc.{form}.default") == 3
    x = {"x": torch.randn(2, 6, 31)}
    expected, found = (next(iter(one.run(x).values())) for one in (program, report.program))
    assert (expected - found).abs().max() < 0.05 * expected.abs().max()
