"""Convolutions of maps padded on some sides only, against PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from effc.ir.testing import Tolerance

SUMS = Tolerance(relative=1e-5)


class Padded(nn.Module):
    def __init__(self, widths, groups, also_third) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=groups)
        self.third = nn.Conv2d(8, 4, 5, padding=2)
        self.widths, self.also_third = widths, also_third

    def forward(self, x):
        x = self.first(x).relu()
        y = self.second(functional.pad(x, self.widths))
        return (y, self.third(x)) if self.also_third else y


@pytest.mark.parametrize("also_third", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("widths", [(0, 1, 0, 1), (2, 0, 1, 3), (0, 0, 0, 2)], ids=str)
def test_padding_of_some_sides(compiled, target, widths, groups, also_third):
    x = torch.randn(2, 3, 11, 8)
    compiled(Padded(widths, groups, also_third), {"x": x}, target).check({"x": x}, SUMS)


def test_padding_of_an_input(compiled, target):
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(functional.pad(x, (0, 1, 0, 1)))

    x = torch.randn(1, 3, 6, 7)
    compiled(First(), {"x": x}, target).check({"x": x}, SUMS)


def test_padding_of_symbolic_maps(compiled, target):
    size = torch.export.Dim("size", min=4, max=40)
    x = torch.randn(1, 3, 9, 9)
    model = compiled(Padded((0, 1, 0, 1), 8, True), {"x": x}, target, {"x": {2: size, 3: size}})
    for length in (4, 7, 16, 33):
        model.check({"x": torch.randn(1, 3, length, length)}, SUMS)
