"""Without a correction of the state: products of all pairs of steps, with a symbolic length."""

import torch
from torch import Tensor, nn

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-linear-attention,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Retention(nn.Module):
    def forward(self, x: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.effc.linear_attention(x, x, x, None, decay, None, 0.5)


def program() -> Program:
    inputs = torch.randn(1, 2, 5, 4), -torch.rand(1, 2, 5, 1)
    return traced(Retention(), *inputs, dynamic={"x.2": "steps", "decay.2": "steps"})
