"""A product with a weight, on rows flattened before and unflattened after, is one linear."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize"
TOLERANCE = ROUNDING[torch.float32]


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(4, 3))
        self.bias = nn.Parameter(torch.arange(3.0))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.view(-1, 4), self.weight)
        return rows.view(x.shape[0], x.shape[1], 3) @ self.weight.t()


def program() -> Program:
    return traced(Products(), torch.ones(2, 3, 4), dynamic={"x.0": "batch", "x.1": "sequence"})
