"""Whole maps pooled in pieces, against PyTorch: sizes, tails, epilogues, types, threads."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from effc.backends.tvm_cpu.build import lowered
from effc.codegen.families.reduce_pieces import PIECES
from effc.ir.target import Target
from effc.ir.testing import Tolerance, traced
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

SUMS = Tolerance(relative=1e-5)


class Gate(nn.Module):
    """A channels-last map, its mean, and what is made of both."""

    def __init__(self, channels: int, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.first = nn.Conv2d(3, channels, 1)
        self.last = nn.Conv2d(channels, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x)
        mean = functional.adaptive_avg_pool2d(x, 1) if self.pool == "pool" else x.mean((2, 3), True)
        mean = (mean * 2).sigmoid()
        return self.last(x * mean), mean


def families(module: nn.Module, x: torch.Tensor) -> list[tuple[str, object]]:
    """Family and tasks of every step."""
    program = PassManager.parse(CLEAN).run(traced(module, x)).program
    executable, _ = lowered(program, Target.parse("native"))
    return [(step.family, step.stage.tasks) for step in executable.steps]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pool", ["pool", "mean"])
@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(16, 40, 33), (24, 33, 40), (33, 31, 29), (64, 17, 23), (100, 2, 150), (7, 60, 60)],
)
def test_maps(compiled, pool: str, channels: int, height: int, width: int, threads: int) -> None:
    torch.manual_seed(channels)
    x = torch.randn(1, 3, height, width)
    module = Gate(channels, pool).eval()
    compiled(module, {"x": x}, "native", threads=threads).check({"x": x}, SUMS)


@pytest.mark.parametrize("pool", ["pool", "mean"])
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
def test_images(compiled, pool: str, target: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 20, 21)
    compiled(Gate(36, pool).eval(), {"x": x}, target).check({"x": x}, SUMS)


def test_few_results_of_large_maps_are_shared() -> None:
    """One image is cut into pieces; of many, each is a task; a small one is left to one thread."""
    large = families(Gate(64, "pool").eval(), torch.randn(1, 3, 56, 56))
    assert [tasks for family, tasks in large if family == "pool"] == [PIECES, 1]
    many = families(Gate(64, "pool").eval(), torch.randn(9, 3, 56, 56))
    assert [tasks for family, tasks in many if family == "pool"] == [9]
    small = families(Gate(16, "pool").eval(), torch.randn(1, 3, 7, 7))
    assert [tasks for family, tasks in small if family == "pool"] == [1]
