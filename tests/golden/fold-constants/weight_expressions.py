"""What only weights go into is computed once; what needs the input is not."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-constants"


class Expressions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        columns = functional.linear(x, (self.weight * (1 + self.scale)).t())
        return columns + torch.arange(3)


def program() -> Program:
    return traced(Expressions(), torch.ones(4, 2), dynamic={"x.0": "batch"})
