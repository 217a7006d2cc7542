"""Activations as lines of 16-bit codes: within half a code before rounding, whatever is read."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

INTERPOLATE = "effc.interpolate.default"
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "hardswish": functional.hardswish,
    "stretched softplus": lambda x: functional.softplus(x, 0.1),
}


class Chain(nn.Module):
    """Two convolutions with an activation between them."""

    def __init__(self, activation: str, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 5, 3)
        self.activation = ACTIVATIONS[activation]
        with torch.no_grad():
            self.first.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activation(self.first(x)))


def lowered(module: nn.Module, x: Tensor, target: str) -> tuple[Program, Program]:
    """The quantized program and what `lower-integer` makes of it."""
    ctx = PassContext(target=Target.parse(target), calibration=[{"x": x}])
    text = "canonicalize,quantize{activations=static}"
    program = PassManager.parse(text).run(traced(module, x), ctx).program
    return program, PassManager.parse("lower-integer").run(program.clone(), ctx).program


def codes_of(program: Program, x: Tensor) -> Tensor:
    """What the second convolution reads."""
    names = ("effc.interpolate.default", "effc.quantize.default", "effc.quantize_scaled.default")
    found = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, node):
            result = super().run_node(node)
            if node.op == "call_function" and op_name(node) in names:
                found[node] = result
            return result

    Watching(program.forward).run(x)
    return list(found.values())[-1]


class Layers(nn.Module):
    """Two linear layers with an activation between them, with or without a bias."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 24, bias), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.gelu(self.first(x)))


@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers(bias):
    x = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    program, changed = lowered(Layers(bias), x, "x86-64-v4")
    assert INTERPOLATE in operators(changed)
    for inputs in (x, x * 20):
        difference = codes_of(program, inputs).int() - codes_of(changed, inputs).int()
        assert difference.abs().max() <= 1


@pytest.mark.parametrize("scale", [0.1, 1.0, 9.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_are_at_most_one_apart(activation, scale):
    """Also for inputs far beyond what calibration has seen."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    program, changed = lowered(Chain(activation, scale), x, "x86-64-v4")
    assert INTERPOLATE in operators(changed)
    for inputs in (x, x * 20):
        difference = codes_of(program, inputs).int() - codes_of(changed, inputs).int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.25


def test_targets_without_short_tables_keep_the_function():
    _, changed = lowered(Chain("silu", 1.0), torch.randn(2, 3, 9, 9), "x86-64-v3")
    assert INTERPOLATE not in operators(changed)
