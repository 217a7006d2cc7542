"""A limit on bit operations: the neurons that matter least go, what is left has 8 bits."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "allocate-channels{bit_operations=0.05 align=1 bits=float|8 metric=output-divergence}"
TOLERANCE = BOUND(0.05)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 8)
        self.down = nn.Linear(8, 2)
        self.up.weight.data[1], self.up.bias.data[1] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


def program() -> Program:
    torch.manual_seed(0)
    return traced(FeedForward(), torch.ones(4, 3), dynamic={"x.0": "batch"})


def calibration() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(4, 3, generator=generator)} for _ in range(8)]
