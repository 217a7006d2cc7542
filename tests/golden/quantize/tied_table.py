"""An embedding table and the last linear read the same codes."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize"
TOLERANCE = BOUND(0.5)


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(512, 16, padding_idx=0)
        self.head = nn.Linear(16, 512, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


def program() -> Program:
    torch.manual_seed(0)
    example = torch.zeros(2, 3, dtype=torch.long)
    return traced(Language(), example, dynamic={"ids.0": "batch", "ids.1": "tokens"})
