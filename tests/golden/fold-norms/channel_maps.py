"""A constant scale or shift per channel right after a linear or convolution goes into it."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,fold-norms"
TOLERANCE = ROUNDING[torch.float32]


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.arange(1.0, 4.0))
        self.convolution = nn.Conv1d(3, 2, 1, bias=False)
        self.shift = nn.Parameter(torch.arange(2.0).reshape(2, 1) + 1)
        self.positions = nn.Parameter(torch.arange(5.0))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.scale * self.linear(x)
        columns = self.convolution(rows.transpose(1, 2)) / 2 - self.shift
        return columns + self.positions


def program() -> Program:
    torch.manual_seed(0)
    return traced(Maps(), torch.ones(2, 5, 4), dynamic={"x.0": "batch"})
