"""Weights with equal content are stored once, unless they have one value throughout."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "share-common"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.load_state_dict(self.first.state_dict())
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Tied(), torch.ones(2, 3), dynamic={"x.0": "batch"})
