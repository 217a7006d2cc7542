"""A linear with blocks of zeros, and one whose zeros are scattered."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "decompose-rows,lower-blocks"
TOLERANCE = ROUNDING[torch.float32]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.scattered = nn.Linear(12, 32), nn.Linear(32, 32, bias=False)
        self.blocks.weight.data[:16, ::2] = 0
        self.blocks.weight.data[16:, 3:] = 0
        self.scattered.weight.data[::2, ::2] = 0
        self.scattered.weight.data[1::2, 1::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.scattered(self.blocks(x).relu())


def program() -> Program:
    torch.manual_seed(0)
    return traced(Two(), torch.ones(2, 12), dynamic={"x.0": "batch"})
