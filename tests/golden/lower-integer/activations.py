"""Activations before codes: lines of 16-bit codes, unless they are too far off or codes too few."""

import torch
from torch import Tensor
from torch.nn import functional

import effc.ir.ops  # noqa: F401 - registers the operators
from effc.ir.program import Program
from effc.ir.testing import BOUND, recorded

PIPELINE = "canonicalize,share-common,lower-integer,share-common,remove-dead"
TARGET = "x86-64-v4"
TOLERANCE = BOUND(1)
OPS = torch.ops.effc
SCALE, ZERO = torch.tensor(0.05), torch.tensor(20, dtype=torch.int32)
CODES = (torch.arange(24) * 7 % 251 - 125).to(torch.int8).reshape(4, 6)
WEIGHT_SCALES = torch.linspace(0.004, 0.01, 4).reshape(4, 1)
BIASES = [torch.linspace(-n, n, 4) for n in (1, 2, 3)]


def activated(x: Tensor) -> tuple[Tensor, ...]:
    values = OPS.dequantize(OPS.quantize(x, SCALE, ZERO, 0, 255, torch.uint8), SCALE, ZERO)
    weight = OPS.dequantize(CODES, WEIGHT_SCALES, None)
    lines, fewer, bent = (functional.linear(values, weight, bias) for bias in BIASES)
    return (
        OPS.quantize(functional.silu(lines), SCALE, ZERO, 0, 255, torch.uint8),
        OPS.quantize(functional.silu(fewer), SCALE, ZERO, 0, 99, torch.uint8),
        OPS.quantize(functional.elu(bent, 20.0), SCALE, ZERO, 0, 255, torch.uint8),
    )


def program() -> Program:
    return recorded(activated, x=torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
