"""A linear that is two block-diagonal matrices, with a shuffle, becomes grouped convolutions."""

import torch
from torch import nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "factorize-linears{form=block-shuffle ratio=0.5 whiten=false}"
TOLERANCE = ROUNDING[torch.float32]


def program() -> Program:
    torch.manual_seed(0)
    net = nn.Linear(16, 32)
    factors = torch.randn(4, 8, 4), torch.randn(4, 4, 4)
    net.weight.data = torch.einsum("tos,sti->tosi", *factors).reshape(32, 16)
    return traced(net, torch.ones(2, 3, 16), dynamic={"input.0": "batch"})
