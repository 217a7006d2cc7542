"""Run-time scales: exact integer products, each followed by one rounding."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced
from effc.passes.manager import PassManager

PIPELINE = "lower-integer,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def program() -> Program:
    torch.manual_seed(0)
    traced_program = traced(Feed(), torch.ones(2, 3, 8), dynamic={"x.0": "batch"})
    return PassManager.parse("quantize{activations=dynamic}").run(traced_program).program
