"""Two linears whose product is smaller become one."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "merge-factors"
TOLERANCE = ROUNDING[torch.float32]


def program() -> Program:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8, bias=False), nn.ReLU())
    return traced(net, torch.ones(2, 8), dynamic={"x.0": "batch"})
