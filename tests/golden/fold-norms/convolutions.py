"""Batch norm goes into grouped, transposed and plain convolutions and into a linear."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,fold-norms"
TOLERANCE = ROUNDING[torch.float32]


def randomized(module: nn.Module) -> nn.Module:
    """Give every batch norm statistics that are not 0 and 1."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4))
        self.wider = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6))
        self.head = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.wider(self.grouped(x).relu())
        return self.head(x.mean((2, 3)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(randomized(Norms()), torch.ones(2, 4, 6, 6), dynamic={"x.0": "batch"})
