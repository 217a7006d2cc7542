"""What is left as it is: norms over several dimensions, and a bias that is computed."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import traced

PIPELINE = "decompose-rows"


class Refused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rms = nn.LayerNorm((4, 6)), nn.RMSNorm((4, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.layer(x), self.rms(x), functional.linear(x, x[0], x[0, :, 0])


def program() -> Program:
    return traced(Refused(), torch.ones(2, 4, 6))
