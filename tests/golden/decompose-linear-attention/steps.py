"""With a correction of the state: step by step."""

import torch
from torch import Tensor, nn

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-linear-attention,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Delta(nn.Module):
    def forward(self, x: Tensor, past: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.effc.linear_attention(x, x, x, past, None, beta, 0.5)


def program() -> Program:
    return traced(Delta(), torch.randn(1, 2, 2, 4), torch.randn(1, 2, 4, 4), torch.rand(1, 2, 2, 1))
