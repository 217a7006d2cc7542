"""Convolutions with a scale per image, a linear with a scale per row, one layer refused."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "canonicalize,quantize"
TOLERANCE = BOUND(0.05)


def program() -> Program:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.ReLU6(), nn.Conv2d(4, 4, 3, 2, 1, groups=4)]
    up = nn.ConvTranspose2d(4, 2, 2)
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 5)]
    net = nn.Sequential(*layers, up, *head)
    return traced(net, torch.ones(2, 3, 8, 8), dynamic={"input.0": "batch"})
