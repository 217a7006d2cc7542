"""Depthwise convolutions of codes against the reference operator, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from effc.codegen.families.depthwise_dot import Tile, choose_tile
from effc.codegen.families.depthwise_frame import Filter
from effc.codegen.isa import Isa
from effc.ir.target import Target
from effc.ir.testing import EXACT, Tolerance

effc = torch.ops.effc

# channels, height, width, filter, stride, dilation
SHAPES = [
    (1, 1, 1, (3, 3), (1, 1), (1, 1)),
    (5, 4, 3, (3, 3), (1, 1), (1, 1)),
    (16, 7, 7, (5, 5), (1, 1), (1, 1)),
    (20, 9, 13, (3, 3), (2, 2), (1, 1)),
    (32, 6, 8, (3, 3), (1, 1), (1, 1)),
    (33, 5, 9, (7, 7), (1, 1), (1, 1)),
    (48, 8, 5, (5, 5), (2, 2), (1, 1)),
    (144, 3, 14, (3, 3), (1, 1), (1, 1)),
    (24, 11, 12, (3, 3), (1, 1), (2, 2)),
    (40, 10, 7, (3, 5), (2, 1), (1, 3)),
    (17, 1, 30, (1, 4), (1, 2), (1, 1)),
    (8, 30, 1, (4, 1), (3, 1), (2, 1)),
]


class Convolutions(nn.Module):
    """One integer convolution of every shape; half of the results become codes again."""

    def __init__(self, is_dynamic: bool) -> None:
        super().__init__()
        self.is_dynamic = is_dynamic
        generator = torch.Generator().manual_seed(0)
        for i, (channels, _, _, size, _, _) in enumerate(SHAPES):
            codes = torch.randint(-127, 128, (channels, 1, *size), generator=generator)
            self.register_buffer(f"codes_{i}", codes.to(torch.int8))
            self.register_buffer(f"zero_{i}", torch.tensor(11 * i, dtype=torch.int32))
            multiplier = torch.rand(channels, 1, 1, generator=generator) * 1e-2
            self.register_buffer(f"multiplier_{i}", multiplier)
            self.register_buffer(f"addend_{i}", torch.rand(channels, 1, 1, generator=generator))

    def forward(self, inputs, zeros):
        return [self.one(i, x, zero) for i, (x, zero) in enumerate(zip(inputs, zeros, strict=True))]

    def one(self, i, x, zero):
        size, stride, dilation = SHAPES[i][3:]
        padding = [(n - 1) * d // 2 for n, d in zip(size, dilation, strict=True)]
        zero = zero if self.is_dynamic else getattr(self, f"zero_{i}")
        settings = [list(stride), padding, list(dilation), x.shape[1]]
        total = effc.conv2d_integer(x, getattr(self, f"codes_{i}"), zero, *settings)
        if i % 2:
            return total
        factors = getattr(self, f"multiplier_{i}"), getattr(self, f"addend_{i}")
        return effc.requantize(total, *factors, 3, 250, torch.uint8)


def codes(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("is_dynamic", [False, True], ids=["static", "dynamic"])
def test_integer_depthwise_is_exact(compiled, target, is_dynamic):
    inputs = [codes(2, channels, height, width) for channels, height, width, *_ in SHAPES]
    zeros = [torch.randint(0, 256, (2, 1, 1, 1), dtype=torch.int32) for _ in SHAPES]
    module = Convolutions(is_dynamic)
    model = compiled(module, {"inputs": inputs, "zeros": zeros}, target)
    names = [spec.name for spec in model.program.signatures["forward"].inputs]
    given_inputs = dict(zip(names, [*inputs, *zeros], strict=False))
    model.check({name: given_inputs[name] for name in names}, EXACT)


class Activated(nn.Module):
    """Codes, a depthwise convolution, SiLU and a residual in floats, codes again."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", codes(37, 1, 3, 3).to(torch.int8))
        self.register_buffer("zero", torch.tensor(100, dtype=torch.int32))

    def forward(self, x, y):
        total = effc.conv2d_integer(x, self.codes, self.zero, [1, 1], [1, 1], [1, 1], 37)
        value = nn.functional.silu(total * 1e-3)
        return value + y, value


def test_activations_behind_codes_are_within_their_bound(compiled, target):
    inputs = {"x": codes(1, 37, 9, 6), "y": torch.randn(1, 37, 9, 6)}
    model = compiled(Activated(), inputs, target)
    model.check(inputs, Tolerance(relative=2.0**-12))


def test_symbolic_sizes(compiled, target):
    dim = torch.export.Dim
    axes = {
        0: dim("batch", min=1, max=4), 2: dim("high", min=1, max=64), 3: dim("wide", min=1, max=64)
    }  # fmt: skip

    class Symbolic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", codes(24, 1, 3, 3).to(torch.int8))
            self.register_buffer("zero", torch.tensor(7, dtype=torch.int32))

        def forward(self, x):
            return effc.conv2d_integer(x, self.codes, self.zero, [1, 1], [1, 1], [1, 1], 24)

    model = compiled(Symbolic(), {"x": codes(2, 24, 9, 8)}, target, {"x": axes})
    for shape in ((1, 24, 1, 1), (3, 24, 5, 17), (1, 24, 64, 3)):
        model.check({"x": codes(*shape)}, EXACT)


PAIRS = st.tuples(st.integers(1, 7), st.integers(1, 7))
STEPS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(PAIRS, STEPS, STEPS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 200))
def test_a_tile_has_every_tap_of_every_row_once(size, stride, dilation, height, width, channels):
    geometry = Filter(size, stride, (0, 0), dilation)
    isa = Isa.of(Target.parse("znver4"))
    tile = choose_tile(geometry, height, width, channels, isa)
    assert tile.rows <= height
    assert tile.pixels <= width
    assert tile.rows * tile.pixels * tile.vectors < isa.registers
    for row in range(tile.rows):
        taps = [tap for step in tile.steps if step.row == row for tap in step.taps if tap >= 0]
        assert sorted(taps) == list(range(size[0] * size[1]))


def test_taps_stand_on_the_lines_they_read():
    tile = Tile(Filter((3, 3), (2, 1), (0, 0), (1, 1)), 2, 4, 1)
    assert tile.groups == [[0, 1, 2, 3], [4]]
    assert [step.taps for step in tile.steps if step.column == 1] == [
        (1, 4, 7, -1), (-1, -1, 1, 4), (7, -1, -1, -1)
    ]  # fmt: skip
