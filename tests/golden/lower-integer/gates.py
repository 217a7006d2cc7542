"""Squeeze-and-excitation: the mean of codes, a gate as their scale, and what stays as it is."""

import torch
from torch import Tensor

import effc.ir.ops  # noqa: F401 - registers the operators
from effc.ir.program import Program
from effc.ir.testing import BOUND, recorded

PIPELINE = "canonicalize,share-common,lower-integer,share-common,remove-dead"
TOLERANCE = BOUND(1)
OPS = torch.ops.effc
SCALE, WIDE = torch.tensor(0.05), torch.tensor(0.25)
BY_CHANNEL = torch.linspace(0.04, 0.06, 4).reshape(1, 4, 1, 1)
ZERO = torch.tensor(20, dtype=torch.int32)


def gated(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    values = OPS.dequantize(OPS.quantize(x, SCALE, ZERO, 0, 255, torch.uint8), SCALE, ZERO)
    gate = values.mean([2, 3], keepdim=True).sigmoid()
    other = OPS.quantize(y, BY_CHANNEL, None, 0, 255, torch.uint8)
    by_channel = OPS.dequantize(other, BY_CHANNEL, None)
    return (
        OPS.quantize(values * gate, WIDE, ZERO, 0, 255, torch.uint8),
        values * gate.tanh(),
        by_channel.mean([2, 3]),
        by_channel * gate,
    )


def program() -> Program:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 4, 3, 3, generator=generator)
    return recorded(gated, x=x, y=y)
