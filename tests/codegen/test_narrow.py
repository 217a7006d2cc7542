"""Codes of 8 bits from tiles of sums, bit for bit, at widths with and without tails."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from effc.ir.testing import EXACT

effc = torch.ops.effc
BASE = [(37 * i * i + 11 * i) % 30_000 - 9_000 for i in range(64)]
SLOPE = [(7_919 * i) % 65_536 - 32_768 for i in range(64)]
WIDTHS = [1, 16, 17, 33, 64, 65, 100]


class Ending(torch.nn.Module):
    """A product of codes, then 8-bit codes by rounding or by lines, of vectors or numbers."""

    def __init__(self, kind: str, width: int, dtype: torch.dtype, ending: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(width)
        groups = width if kind == "depthwise" else 1
        shape = {"linear": (width, 12), "conv": (width, 3, 3, 3), "depthwise": (width, 1, 3, 3)}
        codes = torch.randint(-127, 128, shape[kind], generator=generator)
        factor = (torch.rand(width, generator=generator) + 0.5) / codes[0].numel() ** 0.5 / 90
        if kind != "linear":
            factor = factor[:, None, None]
        self.register_buffer("weight", codes.to(torch.int8))
        self.register_buffer("zero", torch.tensor(128, dtype=torch.int32))
        self.register_buffer("factor", factor)
        self.register_buffer("addend", factor * 77 + (90 if dtype == torch.uint8 else -30))
        self.kind, self.dtype, self.ending, self.groups = kind, dtype, ending, groups

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "linear":
            sums = effc.linear_integer(x, self.weight, self.zero)
        else:
            geometry = ([1, 1], [0, 0], [1, 1], self.groups)
            sums = effc.conv2d_integer(x, self.weight, self.zero, *geometry)
        if self.ending == "scalar":
            sums = torch.fmod(sums.float(), 911.0)
        low, high = torch.iinfo(self.dtype).min, torch.iinfo(self.dtype).max
        if self.ending == "limited":
            low, high = low + 9, high - 20
        if self.ending != "lines":
            return effc.requantize(sums, self.factor, self.addend, low, high, self.dtype)
        short = effc.requantize(
            sums, self.factor * 99, self.addend, -(2**15), 2**15 - 1, torch.int16
        )
        return effc.interpolate(short, BASE, SLOPE, 6, self.dtype)


class Endings(torch.nn.Module):
    """One product for every width; those of depthwise filters read as many channels."""

    def __init__(
        self, kind: str, dtype: torch.dtype, ending: str, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        made = [Ending(kind, width, dtype, ending) for width in widths]
        self.products, self.kind, self.widths = torch.nn.ModuleList(made), kind, widths

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            product(x[:, :width] if self.kind == "depthwise" else x)
            for product, width in zip(self.products, self.widths, strict=True)
        ]


def checked(compiled, module: Endings, target: str) -> None:
    channels = max(WIDTHS) if module.kind == "depthwise" else 3
    shape = (13, 12) if module.kind == "linear" else (2, channels, 9, 8)
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    model = compiled(module, {"x": x}, target)
    model.check({"x": x}, EXACT)
    for found in model.outputs({"x": x}).values():
        assert len(set(found.flatten().tolist())) > 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
@pytest.mark.parametrize("ending", ["whole", "limited", "lines"])
@pytest.mark.parametrize("kind", ["linear", "conv", "depthwise"])
def test_endings(compiled, kind, ending, dtype):
    checked(compiled, Endings(kind, dtype, ending), "native")


def test_depthwise_without_an_integer_dot_product(compiled):
    checked(compiled, Endings("depthwise", torch.uint8, "lines"), "x86-64-v4")


@pytest.mark.parametrize("ending", ["lines", "scalar"])
def test_number_by_number(compiled, target, ending):
    """What has no vectors behind the sums, or no table of 16-bit lanes."""
    checked(compiled, Endings("linear", torch.uint8, ending, [5]), target)


class Layer(torch.nn.Module):
    """Products of different widths, each of rows of its own."""

    def __init__(self, sizes: list[tuple[int, int]], ending: str) -> None:
        super().__init__()
        made = [Ending("linear", width, torch.uint8, ending) for _, width in sizes]
        self.products = torch.nn.ModuleList(made)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [product(x) for product, x in zip(self.products, inputs, strict=True)]


SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 150)), min_size=6, max_size=6)


@settings(
    max_examples=2,
    phases=[Phase.generate],  # a failing model is not built again and again to shrink it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(SIZES, st.sampled_from(["whole", "limited", "lines"]))
def test_random_sizes(compiled, sizes, ending):
    """Tiles with tails of rows and columns, of every kernel bit for bit."""
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randint(0, 256, (rows, 12), generator=generator) for rows, _ in sizes]
    inputs = [x.to(torch.uint8) for x in inputs]
    model = compiled(Layer(sizes, ending), {"inputs": inputs})
    names = [spec.name for spec in model.program.signatures["forward"].inputs]
    model.check(dict(zip(names, inputs, strict=True)), EXACT)


def test_sums_that_no_int32_holds(compiled):
    """What is too large for an integer must not turn negative where codes are packed."""
    module = Ending("linear", 64, torch.uint8, "whole")
    module.factor.mul_(1e9)
    x = torch.randint(0, 256, (13, 12), generator=torch.Generator().manual_seed(0))
    inputs = {"x": x.to(torch.uint8)}
    compiled(module, inputs).check(inputs, EXACT)
