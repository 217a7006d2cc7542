"""A convolution and a linear of bfloat16."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,bfloat16,lower-half"
TOLERANCE = ROUNDING[torch.bfloat16]


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).mean((2, 3)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Products(), torch.randn(1, 2, 7, 7))
