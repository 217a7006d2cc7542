"""Equal calls of equal inputs are computed once."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "share-common"


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.linear(x).relu()
        second = self.linear(x).relu()
        third = self.linear(x) * 2
        return torch.cat([first, second, third])


def program() -> Program:
    torch.manual_seed(0)
    return traced(Twins(), torch.ones(3, 3))
