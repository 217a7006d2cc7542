"""Weights in 4 and 3 bits: with int8 and with float activations, with and without bias."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

PIPELINE = "lower-integer,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 16, bias=False), nn.Linear(16, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(self.up(x).relu()))


def program() -> Program:
    torch.manual_seed(0)
    before = traced(Feed(), torch.ones(2, 3, 32), dynamic={"x.0": "batch"})
    int8 = PassManager.parse("quantize-weights{symmetric=false}")
    after = int8.run(before, PassContext(exclude=("head",))).program
    floats = PassManager.parse("quantize-weights{bits=3 group=0 activations=float32}")
    return floats.run(after).program
