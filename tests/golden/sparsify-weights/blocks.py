"""Linears and a convolution get blocks of zeros; a depthwise convolution stays."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "sparsify-weights{pattern=16x1 ratio=0.25 method=magnitude}"
TOLERANCE = BOUND(0.5)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.stem(x).relu()).mean((2, 3)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Small(), torch.ones(2, 3, 6, 6), dynamic={"x.0": "batch"})
