"""The largest magnitude of every row, its scale, and the codes, operator by operator."""

import torch
from torch import Tensor

import effc.ir.ops  # noqa: F401 - registers the operators
from effc.ir.program import Program
from effc.ir.testing import recorded

PIPELINE = "decompose-rows,remove-dead"


def codes(x: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.effc.quantize_symmetric(x, [-1], 127, torch.int8)


def program() -> Program:
    return recorded(codes, x=torch.ones(3, 8))
