"""A gated feed-forward: the neuron of least weight goes from three layers."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "prune-channels{ratio=0.25 importance=l1 align=1}"
TOLERANCE = ROUNDING[torch.float32]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(3, 4), nn.Linear(3, 4)
        self.down = nn.Linear(4, 2)
        for layer in (self.gate, self.up):
            layer.weight.data[1], layer.bias.data[1] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(x).sigmoid() * self.up(x))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Gated(), torch.ones(4, 3), dynamic={"x.0": "batch"})
