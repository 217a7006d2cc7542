"""A table and two linears write the residual stream, two norms read it; one has no weight left."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import Tolerance, traced

PIPELINE = "rotate-residual"
TOLERANCE = Tolerance(relative=1e-5)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.first, self.second = nn.RMSNorm(8), nn.RMSNorm(8)
        nn.init.uniform_(self.first.weight, 0.5, 2)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.down(functional.silu(self.up(self.first(x))))
        return self.head(self.second(x))


def program() -> Program:
    torch.manual_seed(0)
    return traced(Block(), torch.zeros(2, 3, dtype=torch.long), dynamic={"ids.0": "batch"})
