"""Linears that share a dynamic activation; the residual stream stays float."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize"
TOLERANCE = BOUND(0.05)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.gate = nn.Linear(8, 16, bias=False)
        self.up = nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Gated(), torch.ones(2, 3, 8), dynamic={"x.0": "batch", "x.1": "tokens"})
