"""Views and permutations in a row become one, and none where they undo each other."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-identities"


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        there_and_back = x.view(batch, 12).view(batch, 2, 6).view(batch, 3, 4)
        swapped = there_and_back.permute(0, 2, 1).permute(0, 2, 1).unsqueeze(1).squeeze(1)
        kept = swapped[:, 0:3].expand(batch, 3, 4)
        return kept.view(batch, 4, 3).reshape(batch, -1) * 1 + 0


def program() -> Program:
    return traced(Views(), torch.ones(2, 3, 4), dynamic={"x.0": "batch"})
