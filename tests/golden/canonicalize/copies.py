"""Copies, dropout and casts to the same dtype go; a view whose input was copied becomes reshape."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize"


class Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.transpose(-2, -1).contiguous().clone()
        rows = heads.view(x.shape[0], -1).to(torch.float32)
        return self.dropout(rows).detach()


def program() -> Program:
    return traced(Copies(), torch.ones(2, 3, 4), dynamic={"x.0": "batch"})
