"""What stays as it is: codes and scales of the wrong kind, a narrower range, a wide sum."""

import torch
from torch import Tensor
from torch.nn import functional

import effc.ir.ops  # noqa: F401 - registers the operators
from effc.ir.program import Program
from effc.ir.testing import recorded

PIPELINE = "canonicalize,share-common,lower-integer,share-common,remove-dead"
OPS = torch.ops.effc
SCALE, FEATURES = torch.tensor(0.05), torch.full((1, 6), 0.05)
ZERO = torch.tensor(3, dtype=torch.int32)
UNSIGNED = (torch.arange(24) % 7).reshape(4, 6).to(torch.uint8)
SIGNED = UNSIGNED.to(torch.int8)


def values(x: Tensor, scale: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    return OPS.dequantize(OPS.quantize(x, scale, None, low, high, dtype), scale, None)


def refused(x: Tensor) -> tuple[Tensor, ...]:
    unsigned, signed = values(x, SCALE, 0, 255, torch.uint8), values(x, SCALE, -9, 9, torch.int8)
    by_feature = values(x, FEATURES, 0, 255, torch.uint8)
    weight = OPS.dequantize(SIGNED, SCALE, None)
    return (
        functional.linear(signed, weight),
        functional.linear(by_feature, weight),
        functional.linear(unsigned, OPS.dequantize(UNSIGNED, SCALE, None)),
        functional.linear(unsigned, OPS.dequantize(SIGNED, SCALE, ZERO)),
        functional.linear(unsigned, OPS.dequantize(SIGNED, FEATURES, None)),
        OPS.quantize(by_feature.permute(0, 1), FEATURES, None, 0, 255, torch.uint8),
        OPS.quantize(unsigned, SCALE, None, 0, 99, torch.uint8),
        OPS.quantize(OPS.dequantize(UNSIGNED, SCALE, None), SCALE, None, 0, 5, torch.uint8),
        x.double() + unsigned,
    )


def program() -> Program:
    return recorded(refused, x=torch.ones(2, 6))
