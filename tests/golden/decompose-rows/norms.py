"""Norms and softmax become row reductions; a group norm is a layer norm of groups."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "decompose-rows"
TOLERANCE = ROUNDING[torch.float32]


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rms, self.group = nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layer(x), self.rms(x), self.group(x), x.softmax(-1), x.log_softmax(1)


def program() -> Program:
    return traced(Norms(), torch.ones(2, 4, 6), dynamic={"x.0": "batch"})
