"""Rounding to codes moves in front of views, so that it fuses with the projection."""

import torch
from torch import Tensor, nn

from effc.ir.ops.attention import attention_integer
from effc.ir.ops.quantization import quantize
from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "lower-integer"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8, bias=False)
        self.register_buffer("scale", torch.tensor(0.02))
        self.register_buffer("zero_point", torch.tensor(128, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).view(1, -1, 2, 4).transpose(1, 2)
        q = k = v = quantize(heads, self.scale, self.zero_point, 0, 255, torch.uint8)
        mixed = attention_integer(
            q, k, v, self.scale, self.zero_point, self.scale, self.scale, self.zero_point,
            None, True, None, False, True, 64,
        )  # fmt: skip
        return mixed.transpose(1, 2).flatten(2)


def program() -> Program:
    torch.manual_seed(0)
    return traced(Attention(), torch.randn(1, 5, 8))
