"""Values through roundings are exact; derivatives are those of the function without rounding."""

import pytest
import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.recover.straight import Straight


def gradient(program: Program, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the derivative of its sum by the input."""
    given = x.clone().requires_grad_()
    (output,) = Straight(program.forward).outputs((given,))
    return output, torch.autograd.grad(output.sum(), given)[0]


@pytest.mark.parametrize(
    "passes", ["quantize", "quantize-weights", "quantize-weights{activations=float32}"]
)
def test_values_are_those_of_the_program(block, data, passes):
    compressed = PassManager.parse(passes).run(block, PassContext(calibration=data)).program
    x = data[0]["x"]
    output, derivative = gradient(compressed, x)
    assert torch.equal(output, compressed.run({"x": x})["output"])
    _, expected = gradient(block, x)
    away = (derivative - expected).norm() / expected.norm()
    assert away < 0.2


def test_static_codes_outside_their_range_have_no_derivative():
    layer = nn.Linear(4, 3)
    program = traced(layer, torch.zeros(2, 4), dynamic={"input.0": "batch"})
    data = [{"input": torch.linspace(-1, 1, 64).reshape(16, 4)}]
    quantized = PassManager.parse("quantize").run(program, PassContext(calibration=data)).program
    assert any(node.name.startswith("quantize") for node in quantized.forward.graph.nodes)
    x = torch.tensor([[0.1, 0.2, 50.0, -50.0]])
    _, derivative = gradient(quantized, x)
    assert derivative[0, 2:].tolist() == [0.0, 0.0]
    weight = layer.weight.sum(0)[:2]
    assert torch.allclose(derivative[0, :2], weight, atol=0.02)


class Attend(nn.Module):
    """Self-attention with heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            one.reshape(*x.shape[:2], 2, 8).transpose(1, 2) for one in self.mix(x).chunk(3, -1)
        )
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_attention_of_codes_has_the_derivative_of_attention():
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    program = traced(Attend(), x, dynamic={"x.0": "batch"})
    pipeline = PassManager.parse("quantize{attention=int8}")
    quantized = pipeline.run(program, PassContext(calibration=[{"x": x}])).program
    names = [str(node.target) for node in quantized.forward.graph.nodes]
    assert "effc.attention_integer.default" in names
    output, derivative = gradient(quantized, x)
    assert torch.equal(output, quantized.run({"x": x})["output"])
    _, expected = gradient(program, x)
    assert (derivative - expected).norm() < 0.2 * expected.norm()
