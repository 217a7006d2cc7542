"""The branch that computes zero goes; its norm and weights with it."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "prune-blocks{ratio=0.5 level=branch importance=random}"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        for layer in self.layers:
            layer.weight.data *= 0
            layer.bias.data *= 0

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return x.relu()


def program() -> Program:
    torch.manual_seed(0)
    return traced(Net(), torch.ones(2, 3, 4), dynamic={"x.0": "batch"})
