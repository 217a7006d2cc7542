"""Padding as numbers where it is even, all arguments written out, one form of clamping."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize"


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(2, 2, 3, padding="same")
        self.even = nn.Conv2d(2, 2, 2, padding="same")
        self.plain = nn.Conv2d(2, 4, 3, stride=2)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.same(x))
        x = self.even(x).clamp(0, 6)
        return self.pool(self.plain(functional.pad(x, (1, 1, 1, 1)))).softmax(-1)


def program() -> Program:
    torch.manual_seed(0)
    return traced(Convolutions(), torch.ones(2, 2, 8, 8), dynamic={"x.0": "batch"})
