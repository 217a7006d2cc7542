"""Splits become slices, stacks concatenations; what has one dimension becomes images of one row."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-rows,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, second = self.conv(x).split([1, 3], dim=1)
        left, right = x.unbind(1)[:2]
        return (
            functional.adaptive_avg_pool1d(second, 1) + first,
            torch.stack([left, right], 1) * x.chunk(3, 1)[2],
        )


def program() -> Program:
    torch.manual_seed(0)
    return traced(Parts(), torch.ones(2, 6, 8), dynamic={"x.0": "batch"})
