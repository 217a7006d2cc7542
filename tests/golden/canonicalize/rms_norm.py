"""RMS norm as Hugging Face models spell it, around a SiLU gate written as a product."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize"
TOLERANCE = ROUNDING[torch.float32]


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, size + 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        variance = wide.pow(2).mean(-1, keepdim=True)
        normed = wide * torch.rsqrt(variance + 1e-6)
        return self.weight * normed.to(x.dtype)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm(4)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return normed * torch.sigmoid(normed)


def program() -> Program:
    return traced(Gated(), torch.ones(2, 3, 4), dynamic={"x.0": "batch", "x.1": "sequence"})
