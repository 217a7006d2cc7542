"""An average of 20 bits leaves the layer in float whose weight has most to lose."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "allocate-bits{average_bits=20.0}"
TOLERANCE = BOUND(0.05)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8, bias=False)
        with torch.no_grad():
            self.up.weight[:, 0] *= 20

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.relu(self.up(x)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Block(), torch.ones(2, 3, 8), dynamic={"x.0": "batch", "x.1": "tokens"})
