"""Codes and scales of a layer in 3 bits are trained with what surrounds it; nothing is added."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize-weights{bits=3},recover{parameters=lora minutes=0 steps=4 rows=4}"
TOLERANCE = BOUND(0.3)


def program() -> Program:
    torch.manual_seed(0)
    layers = nn.LayerNorm(32), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 8, bias=False)
    return traced(nn.Sequential(*layers), torch.ones(2, 32), dynamic={"input.0": "batch"})


def calibration() -> list[dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [{"input": torch.randn(8, 32, generator=drawn)} for _ in range(2)]
