"""Four bits for one layer and three for the other: both weights are rounded and stay in float."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "allocate-bits{bits=4|w3a32g0 group=4 average_bits=3.5 simulate=true}"
TOLERANCE = BOUND(0.5)


def program() -> Program:
    torch.manual_seed(0)
    return traced(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.ones(2, 8))
