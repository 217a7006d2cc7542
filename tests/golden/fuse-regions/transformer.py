"""Anchors take what follows them, reductions along rows what surrounds them; views stay outside."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-rows,fold-constants,remove-dead,fuse-regions"
TOLERANCE = ROUNDING[torch.float32]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, _ = x.shape
        parts = self.mix(self.norm(x)).view(batch, steps, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return x + functional.gelu(self.head(mixed.transpose(1, 2).reshape(batch, steps, 8)))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Block(), torch.ones(2, 3, 8), dynamic={"x.0": "batch", "x.1": "steps"})
