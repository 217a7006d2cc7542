"""Static scales: codes are pooled, a product is exact, a residual is added in one rounding."""

import torch
from torch import Tensor

import effc.ir.ops  # noqa: F401 - registers the operators
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, recorded

PIPELINE = "canonicalize,share-common,lower-integer,share-common,remove-dead"
TOLERANCE = ROUNDING[torch.float32]
OPS = torch.ops.effc
SCALE, WIDE = torch.tensor(0.05), torch.tensor(0.25)
ZERO = torch.tensor(128, dtype=torch.int32)
CODES = (torch.arange(4 * 3 * 3 * 3) % 251 - 125).to(torch.int8).reshape(4, 3, 3, 3)
WEIGHT_SCALES = torch.linspace(0.01, 0.04, 4).reshape(4, 1, 1, 1)
BIAS = torch.linspace(-1, 1, 4)


def block(x: Tensor, residual: Tensor) -> Tensor:
    quantized = OPS.quantize(x, SCALE, ZERO, 0, 255, torch.uint8)
    pooled = torch.max_pool2d(OPS.dequantize(quantized, SCALE, ZERO), [2, 2], [2, 2], 0, 1, False)
    again = OPS.dequantize(OPS.quantize(pooled, SCALE, ZERO, 0, 255, torch.uint8), SCALE, ZERO)
    weight = OPS.dequantize(CODES, WEIGHT_SCALES, None)
    result = torch.conv2d(again, weight, BIAS, [1, 1], [1, 1], [1, 1], 1)
    kept = OPS.quantize(residual, WIDE, None, -127, 127, torch.int8)
    return result + OPS.dequantize(kept, WIDE, None)


def program() -> Program:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    return recorded(block, x=x, residual=torch.randn(2, 4, 4, 4, generator=generator))
