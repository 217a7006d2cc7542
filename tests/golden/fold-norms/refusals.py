"""Norms that cannot be folded become a multiplication and an addition."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,fold-norms"
TOLERANCE = ROUNDING[torch.float32]


class Refused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2)
        self.shared = nn.Conv2d(2, 2, 1)
        self.second = nn.BatchNorm2d(2)
        self.third = nn.BatchNorm2d(2, affine=False)
        for norm in (self.first, self.second, self.third):
            norm.running_mean.copy_(torch.tensor([1.0, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        once = self.shared(self.first(x))
        twice = self.shared(self.second(once).relu())
        return once + self.third(twice)


def program() -> Program:
    torch.manual_seed(0)
    return traced(Refused(), torch.ones(2, 2, 3, 3), dynamic={"x.0": "batch"})
