"""The padding mask as Hugging Face BERT builds it is a view of the mask given."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "canonicalize,fold-identities"


class Mask(nn.Module):
    def forward(self, mask: Tensor) -> Tensor:
        batch, sequence = mask.shape
        rows = torch.arange(batch)[:, None, None, None]
        queries = (torch.arange(sequence) + 0)[None, None, :, None]
        keys = (torch.arange(sequence) + 0)[None, None, None, :]
        everything = queries.new_ones((), dtype=torch.bool)
        visible = everything & (queries >= 0) & mask.to(torch.bool)[rows, keys]
        return visible.expand(batch, -1, sequence, sequence)


def program() -> Program:
    mask = torch.ones(2, 5, dtype=torch.int64)
    return traced(Mask(), mask, dynamic={"mask.0": "batch", "mask.1": "sequence"})
