"""Codes from sums in one rounding: at most a tie apart from rounding twice."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

REQUANTIZE, FUSED = "effc.requantize.default", "effc.fused_multiply_add.default"
STATIC = "quantize{activations=static}"
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardtanh": lambda x: functional.hardtanh(x, -0.3, 0.7),
    "clamp": lambda x: x.clamp(min=-0.2),
}


class Chain(nn.Module):
    """Two convolutions with an activation between them, read once or twice."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 5, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.second(ACTIVATIONS[self.activation](self.first(x)))


class Residual(nn.Module):
    """A block whose shortcut is added to the sums of its second convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.second(self.first(x).relu())).relu()
        return self.last(x)


def quantized(module: nn.Module) -> tuple[Program, Any]:
    images = [{"x": torch.randn(2, 3, 9, 9)} for _ in range(2)]
    program = traced(module, images[0]["x"])
    report = PassManager.parse(f"canonicalize,{STATIC}").run(
        program, PassContext(calibration=images)
    )
    return report.program, images[0]


def lowered(program: Program) -> Program:
    return PassManager.parse("lower-integer").run(program).program


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_chain_has_one_rounding_and_the_same_result(activation: str) -> None:
    program, inputs = quantized(Chain(activation))
    after = lowered(program)
    assert operators(after)[REQUANTIZE] == 1
    assert operators(after)[FUSED] == 1  # of the last sums, which stay float
    expected, found = program.run(inputs)["output"], after.run(inputs)["output"]
    assert float((expected - found).abs().mean()) < 1e-3 * float(expected.abs().mean())


def test_a_residual_is_folded_into_the_addend() -> None:
    program, inputs = quantized(Residual())
    after = lowered(program)
    assert operators(after)[REQUANTIZE] == 3
    expected, found = program.run(inputs)["output"], after.run(inputs)["output"]
    assert float((expected - found).abs().mean()) < 2e-3 * float(expected.abs().mean())


def test_a_value_that_is_also_read_in_float_keeps_its_own_rounding() -> None:
    class Twice(Chain):
        def forward(self, x: Tensor) -> Any:
            hidden = self.first(x)
            return self.second(hidden), hidden

    program, _ = quantized(Twice("none"))
    assert operators(lowered(program))[REQUANTIZE] == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_kernels_give_the_same_codes(activation: str, tmp_path: Any) -> None:
    from effc.backends.artifact import manifest_of, write_manifest
    from effc.backends.runner import Model
    from effc.backends.tvm_cpu.build import build
    from effc.ir.target import Target

    program, inputs = quantized(Chain(activation))
    target = Target.parse("native")
    build(program, target, tmp_path)
    write_manifest(manifest_of(program, target, tmp_path, "test"), tmp_path)
    found = Model(tmp_path).run({"x": inputs["x"].numpy()})["output"]
    expected = lowered(program).run(inputs)["output"].numpy()
    assert float(abs(found - expected).max()) <= 1e-5 * float(abs(expected).max())
