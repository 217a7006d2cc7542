"""Concatenation in place: which ones need no kernel, and that nothing is overwritten."""

import pytest
import torch
from torch import nn

from effc.ir.program import FORWARD
from effc.ir.testing import Tolerance
from effc.ir.testing import traced as small
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import FUSE, SPELL_OUT
from effc.passes.lower.placement import place
from effc.passes.manager import PassManager

F = nn.functional
SUMS = Tolerance(relative=1e-5)


class Branches(nn.Module):
    """Branches of a net side by side, as a kind of reader wants them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first, self.second = nn.Conv2d(5, 7, 1), nn.Conv2d(5, 18, 3, padding=1)
        self.third = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        columns = 30 if kind == "pool" else 25
        padding = 1 if kind == "border" else 0
        self.last = nn.Conv2d(columns, 9, 2 * padding + 1, padding=padding)
        self.rows = nn.ModuleList([nn.Linear(6, 4), nn.Linear(6, 33)])

    def forward(self, x):
        one, two = self.first(x).relu(), self.second(x)
        match self.kind:
            case "pool":
                return self.last(torch.cat([one, F.max_pool2d(x * 2, 3, 1, 1), two], 1)), one + 1
            case "depthwise":
                return self.last(torch.cat([self.third(one), two], 1))
            case "shared":
                return self.last(torch.cat([one, one, two[:, 7:]], 1))
            case "input":
                return self.last(torch.cat([self.first(x), two[:, 5:], x], 1))
            case "rows":
                return torch.cat([layer(x).tanh() for layer in self.rows], -1), one
            case "twice":
                joined = torch.cat([one, two], 1)
                return self.last(joined), torch.cat([two, one], 1) * 2, joined
        return self.last(torch.cat([one, two], 1))


CASES = {"plain": 1, "pool": 1, "rows": 1, "twice": 1, "border": 0, "depthwise": 0, "shared": 0,
         "input": 0}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_which_are_in_place(kind):
    x = torch.randn(2, 5, 4, 6)
    pipeline = f"{CLEAN},{SPELL_OUT},{FUSE}"
    program = PassManager.parse(pipeline).run(small(Branches(kind), x)).program
    placed = place(program, FORWARD)
    assert len(placed.in_place) == CASES[kind]


@pytest.mark.parametrize("kind", CASES)
def test_joined_results(compiled, kind):
    x = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    compiled(Branches(kind), {"x": x}).check({"x": x}, SUMS)


def test_joined_results_without_masks(compiled):
    x = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(2))
    compiled(Branches("pool"), {"x": x}, "x86-64-v3").check({"x": x}, SUMS)
