"""Linears that share int8 activations read weights in 4 bits; one has a bias."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize-weights"
TOLERANCE = BOUND(0.2)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.gate = nn.Linear(32, 64, bias=False)
        self.up = nn.Linear(32, 64, bias=False)
        self.down = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Gated(), torch.ones(2, 3, 32), dynamic={"x.0": "batch", "x.1": "tokens"})
