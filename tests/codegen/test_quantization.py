"""Codes of numbers, bit for bit, also of those no int32 holds."""

import numpy as np
import pytest
import torch

from effc.ir.float_formats import values_of
from effc.ir.testing import EXACT

effc = torch.ops.effc
NUMBERS = np.float32(
    [0, -0.0, 0.5, 1.5, 2.5, -0.5, 3e9, -3e9, 1e30, -1e30, np.inf, -np.inf, np.nan]
)
RANGES = [(0, 255, torch.uint8, 13), (3, 200, torch.uint8, 13), (-128, 127, torch.int8, -128),
          (-127, 127, torch.int8, None)]  # fmt: skip


class Quantized(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.75))
        for i, (_, _, _, zero_point) in enumerate(RANGES):
            zero = None if zero_point is None else torch.tensor(zero_point, dtype=torch.int32)
            self.register_buffer(f"zero_{i}", zero)

    def forward(self, x):
        return [
            effc.quantize(x, self.scale, getattr(self, f"zero_{i}"), low, high, dtype)
            for i, (low, high, dtype, _) in enumerate(RANGES)
        ]


def test_codes_of_any_number(compiled, target):
    steps = np.arange(-300, 300, dtype=np.float32) * np.float32(0.375)
    x = torch.from_numpy(np.concatenate([NUMBERS, steps]))
    compiled(Quantized(), {"x": x}, target).check({"x": x}, EXACT)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (17, 90)])
def test_requantized_sums(compiled, target, low, high):
    class Requantized(torch.nn.Module):
        def forward(self, x, multiplier, addend):
            return effc.requantize(x, multiplier, addend, low, high, torch.uint8)

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**31), 2**31 - 1, (37, 21), generator=generator).to(torch.int32)
    multiplier = 10.0 ** (torch.rand(21, generator=generator) * 9 - 9)
    inputs = {"x": x, "multiplier": multiplier, "addend": torch.rand(21, generator=generator) * 9}
    compiled(Requantized(), inputs, target).check(inputs, EXACT)


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_small_floats(compiled, target, name):
    class Rounded(torch.nn.Module):
        def forward(self, x):
            return effc.round_float(x, name)

    table = values_of(name).numpy()
    ladder = np.unique(table[np.isfinite(table)])
    middle = (ladder[1:] + ladder[:-1]) / 2
    near = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    x = torch.from_numpy(np.concatenate([NUMBERS, ladder, middle, *near, ladder * 1.01]))
    compiled(Rounded(), {"x": x}, target).check({"x": x}, EXACT)
