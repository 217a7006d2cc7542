"""A quantized weight and a result that would take too many bytes stay as they are."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir import ops
from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-constants{max_bytes=64}"


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.arange(-3, 3, dtype=torch.int8).reshape(2, 3))
        self.register_buffer("scale", torch.tensor([[0.5], [0.25]]))
        self.register_buffer("row", torch.arange(2.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.effc.dequantize(self.codes, self.scale, None)
        return functional.linear(x, weight) + (self.row * 2).expand(16, 2)


def program() -> Program:
    assert ops.quantization
    return traced(Kept(), torch.ones(16, 3))
