"""Reductions of one tensor share a kernel; a running sum stands alone; no cycle arises."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-rows,fuse-regions"
TOLERANCE = ROUNDING[torch.float32]


class Reduced(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z = (x * 2 + y).relu()
        low, high = z.amin((1, 2)), z.amax((1, 2))
        around = z.cumsum(1) + z.exp()
        return (high - low).sqrt(), around, torch.cat([z, around], 1)


def program() -> Program:
    return traced(Reduced(), torch.ones(2, 4, 6), torch.ones(6))
