"""A convolution with a bias; a transposed one has no such form."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "bfloat16{attention=false}"
TOLERANCE = BOUND(0.02)


def program() -> Program:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2))
    return traced(net, torch.randn(1, 3, 6, 6))
