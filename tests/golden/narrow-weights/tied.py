"""Weights in 8 bits become weights in 3; those with zero points stay."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced
from effc.passes.base import PassContext
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.manager import PassManager

PIPELINE = "narrow-weights{bits=3}"
TOLERANCE = BOUND(0.5)


def program() -> Program:
    torch.manual_seed(0)
    linears = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8, bias=False))
    plain = traced(linears, torch.ones(2, 32))
    first = (("0", {"symmetric": "false"}),)
    manager = PassManager((QuantizeWeights(bits=8, activations="float32"),))
    return manager.run(plain, PassContext(rules=first)).program
