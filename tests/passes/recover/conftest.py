"""A small program with a tied table, norms and a residual, in float and compressed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.report import PipelineReport


class Block(nn.Module):
    """Two residual blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(12, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(32, 48) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(48, 32, bias=False) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(functional.gelu(up(norm(x))))
        return 4 * self.head(x)


@pytest.fixture(scope="session")
def block() -> Program:
    return traced(Block(), torch.randn(2, 12), dynamic={"x.0": "batch"})


@pytest.fixture(scope="session")
def data() -> list[dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(3)
    return [{"x": torch.randn(32, 12, generator=drawn)} for _ in range(8)]


@pytest.fixture(scope="session")
def recovered(
    block: Program, data: list[dict[str, Tensor]]
) -> Callable[..., tuple[PipelineReport, PipelineReport]]:
    """Run a pipeline without and with recovery: both reports."""

    def run(before: str, options: str, **settings: Any) -> tuple[PipelineReport, PipelineReport]:
        ctx = PassContext(**{"calibration": data, **settings})
        first = PassManager.parse(before).run(block, ctx)
        both = f"{before},recover{{minutes=0 rate=0.01 {options}}}" if before else options
        return first, PassManager.parse(both).run(block, ctx)

    return run
