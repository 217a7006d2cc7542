"""One of two heads goes: rows of three weights, columns of the fourth, a size in a view."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import ROUNDING, traced

PIPELINE = "prune-channels{ratio=0.5 align=1 scope=heads}"
TOLERANCE = ROUNDING[torch.float32]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(4, 4) for _ in range(4))
        self.value.weight.data[2:], self.value.bias.data[2:] = 0, 0
        self.query.weight.data[2:], self.query.bias.data[2:] = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(x.shape[0], 5, 2, 2).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self.output(
            functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )


def program() -> Program:
    torch.manual_seed(0)
    return traced(Heads(), torch.ones(2, 5, 4), dynamic={"x.0": "batch"})
