"""Key heads repeated for groups of query heads become grouped attention."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "canonicalize,fold-identities,remove-dead"
TOLERANCE = ROUNDING[torch.float32]


class Grouped(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query = x.view(-1, 6, 4, 8).transpose(1, 2)
        heads = x[..., :16].view(-1, 6, 2, 8).transpose(1, 2)
        repeated = heads[:, :, None].expand(-1, 2, 2, 6, 8).reshape(-1, 4, 6, 8)
        attend = nn.functional.scaled_dot_product_attention
        first = attend(query, repeated, repeated, is_causal=True)
        second = heads.repeat_interleave(2, 1)
        return first, attend(query, second, second.neg())


def program() -> Program:
    return traced(Grouped(), torch.ones(2, 6, 32), dynamic={"x.0": "batch"})
