"""Sorting and writing by index become comparisons of every element with every other."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,decompose-rare,remove-dead"


class Order(nn.Module):
    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        values, order = torch.sort(x, dim=1, descending=True, stable=True)
        return values, torch.scatter(x, 1, places, x), order


def program() -> Program:
    places = torch.tensor([[0, 2, 0], [1, 1, 1]])
    return traced(Order(), torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, -1.0]]), places)
