"""Two linears with ReLU between are evened out; a sum, and GELU, stand in the way of others."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "equalize-layers"
TOLERANCE = ROUNDING[torch.float32]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 4, bias=False)
        self.third = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.second(functional.relu(self.first(x)))
        return self.last(functional.gelu(self.third(x)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Perceptron(), torch.ones(2, 4), dynamic={"x.0": "batch"})
