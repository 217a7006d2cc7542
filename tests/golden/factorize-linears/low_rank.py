"""A feed-forward of low rank; a thin head whose factors would be no smaller stays."""

import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, traced

PIPELINE = "factorize-linears{ratio=0.4 align=4 whiten=false}"
TOLERANCE = BOUND(0.8)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16, bias=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(self.up(x).relu()))


def program() -> Program:
    torch.manual_seed(0)
    return traced(FeedForward(), torch.ones(2, 3, 16), dynamic={"x.0": "batch", "x.1": "tokens"})
