"""Shifted windows and back: the norm follows the selection; the result is selected back."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-identities,select-rows,remove-dead"


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        rolled = self.norm(x).view(-1, 4, 6, 16).roll((-1, -1), (1, 2))
        windows = rolled.view(-1, 2, 2, 3, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 16)
        back = self.layer(windows).view(-1, 2, 3, 2, 2, 16).permute(0, 1, 3, 2, 4, 5)
        return x + back.reshape(-1, 4, 6, 16).roll((1, 1), (1, 2)).view(-1, 24, 16)


def program() -> Program:
    return traced(Windows(), torch.ones(2, 24, 16) * 2, dynamic={"x.0": "batch"})
