"""Float activations; a convolution, and a head whose weight is the embedding table, stay."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "quantize-weights{scheme=ternary group=0 activations=float32}"
TOLERANCE = BOUND(2.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.mix = nn.Conv1d(8, 8, 1)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.mix(self.table(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(self.inner(x))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Net(), torch.arange(6).reshape(2, 3))
