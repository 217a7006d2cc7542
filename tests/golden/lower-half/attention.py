"""Rounding moves in front of views, so that it fuses with the projection."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "bfloat16,decompose-rows,lower-half"
TOLERANCE = ROUNDING[torch.bfloat16]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).view(1, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


def program() -> Program:
    torch.manual_seed(0)
    return traced(Attention(), torch.randn(1, 5, 8))
