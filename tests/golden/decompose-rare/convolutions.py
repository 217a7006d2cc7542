"""Transposed and three-dimensional convolutions become plain ones."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,decompose-rare,fold-constants,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1)
        self.deep = nn.Conv3d(1, 2, (2, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(self.up(x).unsqueeze(1))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Convolutions(), torch.randn(1, 2, 2, 2))
