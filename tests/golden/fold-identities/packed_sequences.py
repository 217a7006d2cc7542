"""Whether positions start anew is decided at compile time: what is left is the causal mask."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-identities,share-common"


class CausalMask(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        batch, sequence = ids.shape
        positions = torch.arange(sequence)[None].expand(batch, -1)
        jumps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1
        pack = jumps.cumsum(-1)
        rows = torch.arange(batch)[:, None, None, None]
        queries = torch.arange(sequence)[None, None, :, None]
        keys = torch.arange(sequence)[None, None, None, :]
        return (pack[rows, queries] == pack[rows, keys]) & (keys <= queries)


def program() -> Program:
    ids = torch.ones(2, 5, dtype=torch.int64)
    return traced(CausalMask(), ids, dynamic={"ids.0": "batch", "ids.1": "sequence"})
