"""A projection and attention; the mask keeps its type, the last layer is of another type."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "bfloat16"
TOLERANCE = BOUND(0.02)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.last = nn.Linear(8, 4).double()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = self.project(x).view(1, 4, 2, 4).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, mask)
        return self.last(mixed.transpose(1, 2).reshape(1, 4, 8).double())


def program() -> Program:
    torch.manual_seed(0)
    return traced(Mixed(), torch.randn(1, 4, 8), torch.randn(4, 4))
