"""A linear in int8 whose blocks of zeros lie across quads of features."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize,lower-integer,decompose-rows,fold-constants,lower-blocks,remove-dead"
TOLERANCE = BOUND(0.1)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)
        self.linear.weight.data.view(2, 16, 8, 4)[:, :, ::2] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu()


def program() -> Program:
    torch.manual_seed(0)
    return traced(One(), torch.ones(4, 32), dynamic={"x.0": "batch"})
