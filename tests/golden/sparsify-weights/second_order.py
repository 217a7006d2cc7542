"""A feed-forward with two of four weights left, the others changed to make up for them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "sparsify-weights{pattern=2:4 method=sparsegpt}"
TOLERANCE = BOUND(0.5)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 64, bias=False)
        self.up = nn.Linear(32, 64, bias=False)
        self.down = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.silu(self.gate(x)) * self.up(x))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Gated(), torch.ones(2, 3, 32), dynamic={"x.0": "batch", "x.1": "tokens"})


def calibration() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(4, 16, 32, generator=generator)} for _ in range(4)]
