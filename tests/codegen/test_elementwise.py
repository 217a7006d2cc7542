"""Elementwise kernels: every operator, odd sizes, broadcasting, strides, element types."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effc.ir.errors import UnsupportedError
from effc.ir.testing import EXACT, ROUNDING

F = torch.nn.functional
FLOAT = ROUNDING[torch.float32]


class Unary(torch.nn.Module):
    def forward(self, x):
        return [
            x.abs(), x.neg(), x.floor(), x.ceil(), x.round(), x.trunc(), x.sign(), x.square(),
            x.reciprocal(), x.abs().sqrt(), (x.abs() + 1).rsqrt(), x.relu(), F.relu6(x),
            F.hardtanh(x, -0.5, 0.7), F.hardsigmoid(x), F.hardswish(x), F.leaky_relu(x, 0.2),
            F.elu(x), F.softplus(x), F.mish(x), F.gelu(x, approximate="tanh"),
            x.clamp(-0.3, 0.4), x.clamp(min=0.1), x.clamp(max=0.2), x**3, x**2, x.abs() ** 0.5,
            x.sin(), x.cos(), x.atan(), x.log1p().nan_to_num(), x.expm1(), x.exp2(),
        ]  # fmt: skip


class Binary(torch.nn.Module):
    def forward(self, x, y):
        return [
            x + y, x - y, x * y, x / y, torch.add(x, y, alpha=2.5), torch.sub(x, y, alpha=0.5),
            torch.maximum(x, y), torch.minimum(x, y), x > y, x <= y, x == y, x != y,
            torch.where(x > y, x, y), torch.floor_divide(x, y), torch.remainder(x, y),
            torch.atan2(x, y), x.abs() ** y, torch.lerp(x, y, 0.3), 2.0 - x, 1.0 / y,
            torch.addcmul(x, y, y, value=0.5), torch.masked_fill(x, y > 0, 7.0),
            (x > 0) & (y > 0), (x > 0) | (y > 0), torch.logical_xor(x > 0, y > 0), ~(x > 0),
        ]  # fmt: skip


class Integers(torch.nn.Module):
    def forward(self, x, y):
        return [
            x + y, x - y, x * y, torch.div(x, y, rounding_mode="floor"),
            torch.div(x, y, rounding_mode="trunc"), x % y, x & y, x | y, x ^ y, -x, x.abs(),
            x > y, x.to(torch.float32) * 0.5, x.to(torch.int32), x.clamp(-3, 5), x / y,
            torch.maximum(x, y), x & 6, x | 1, x ^ 5,
        ]  # fmt: skip


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5, 17), (2, 64), (1, 1)])
def test_unary_operators(compiled, target, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    compiled(Unary(), {"x": x}, target).check({"x": x}, FLOAT)


@pytest.mark.parametrize(
    ("left", "right"), [((5, 33), (5, 33)), ((4, 1, 9), (3, 1)), ((2, 3, 4), ()), ((1,), (1,))]
)
def test_binary_operators_broadcast(compiled, target, left, right):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(left, generator=generator), torch.randn(right, generator=generator)
    compiled(Binary(), {"x": x, "y": y}, target).check({"x": x, "y": y}, FLOAT)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_integer_operators(compiled, target, dtype):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-9, 10, (3, 21), generator=generator).to(dtype)
    y = torch.randint(1, 6, (21,), generator=generator).to(dtype)
    y = y * torch.where(torch.arange(21) % 2 == 0, 1, -1).to(dtype)
    compiled(Integers(), {"x": x, "y": y}, target).check({"x": x, "y": y}, FLOAT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_float_types(compiled, target, dtype):
    class Mixed(torch.nn.Module):
        def forward(self, x):
            return [x * 2 + 1, x.float() * 0.1, (x.float() / 3).to(dtype), x > 0]

    x = torch.randn(5, 19, generator=torch.Generator().manual_seed(4)).to(dtype)
    compiled(Mixed(), {"x": x}, target).check({"x": x}, ROUNDING[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_remainders(compiled, target, dtype):
    """Exact, also where the quotient is large or the divisor infinite."""

    class Remainders(torch.nn.Module):
        def forward(self, x, y):
            return torch.remainder(x, y), torch.fmod(x, y)

    ends = torch.tensor([-3.0, 3.0, 0.0, float("inf"), float("nan"), 4097.3, -1.0], dtype=dtype)
    inputs = {"x": ends.repeat(7), "y": ends.flip(0).repeat_interleave(7)}
    compiled(Remainders(), inputs, target).check(inputs, EXACT)


def test_bfloat16_inside(compiled, target):
    class Rounded(torch.nn.Module):
        def forward(self, x):
            return (x / 3).bfloat16().float(), x.bfloat16() > 1

    x = torch.randn(5, 19, generator=torch.Generator().manual_seed(4))
    x[0, 0], x[1, 1] = float("nan"), float("inf")
    compiled(Rounded(), {"x": x}, target).check({"x": x}, ROUNDING[torch.bfloat16])


class Predicates(torch.nn.Module):
    def forward(self, x, y):
        return [
            x + 1, x * 2.5, x + y, x * y, 1 - x.int(), x.float(), x.double(), x.half(),
            x.to(torch.uint8), x.to(torch.int8), ~x, x ^ y, x & y, x | y, x == y,
            x != y, x < y, x >= y, x > 0, x == 1,
            torch.maximum(x, y), torch.minimum(x, y), torch.where(x, 1, 0), torch.where(x, y, ~y),
            x.masked_fill(y, True), torch.cat([x, y], 0), x * y.int(), x.logical_not(),
        ]  # fmt: skip


@pytest.mark.parametrize("length", [1, 16, 21])
def test_predicates(compiled, target, length):
    generator = torch.Generator().manual_seed(8)
    inputs = {name: torch.rand(3, length, generator=generator) > 0.5 for name in "xy"}
    compiled(Predicates(), inputs, target).check(inputs, EXACT)


class NotNumbers(torch.nn.Module):
    def forward(self, x, y):
        return [
            x.relu(), F.relu6(x), F.hardtanh(x), x.clamp(-1, 1), F.softplus(x), F.silu(x),
            F.leaky_relu(x), F.elu(x), F.mish(x), F.hardswish(x), F.hardsigmoid(x), x.sigmoid(),
            x.tanh(), x.erf(), x.exp(), x.log(), x.sqrt(), x.abs(), torch.maximum(x, y),
            torch.minimum(x, y), torch.maximum(y, x), torch.minimum(y, x), x.bool(), x.isnan(),
            x.isinf(), x != y, x == x, x < y, torch.logical_and(x, x), torch.logical_xor(x, y),
            x.logical_not(), x.nan_to_num(1.5), torch.where(x > y, x, y),
        ]  # fmt: skip


def test_not_a_number_and_infinities(compiled, target):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.5, -2.0])
    x, y = special.repeat(7), special.repeat_interleave(7)
    compiled(NotNumbers(), {"x": x, "y": y}, target).check({"x": x, "y": y}, FLOAT)


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 255, torch.uint8), (-127, 127, torch.int8)], ids=str
)
def test_codes(compiled, target, low, high, dtype):
    """Ties, saturation, NaN and infinities, with and without zero points."""

    class Codes(torch.nn.Module):
        def forward(self, x, scale, zero):
            made = torch.ops.effc.quantize(x, scale, zero, low, high, dtype)
            plain = torch.ops.effc.quantize_scaled(x, scale, None, low, high, dtype)
            return made, plain, torch.ops.effc.dequantize(made, scale, zero)

    special = [float("nan"), float("inf"), -float("inf"), 0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30]
    x = torch.cat([torch.tensor(special), torch.randn(27) * 200]).repeat(3, 1)
    scale, zero = torch.tensor([[0.5], [1.0], [3.0]]), torch.tensor([[0], [7], [100]]).int()
    inputs = {"x": x, "scale": scale, "zero": zero}
    compiled(Codes(), inputs, target).check(inputs, EXACT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64], ids=str)
def test_integers_wrap_around(compiled, target, dtype):
    class Wrapped(torch.nn.Module):
        def forward(self, x):
            constants = [x > -9, x < 300, x + 300, x * -2, -3 - x, torch.where(x > 5, x, -7)]
            return [*constants, x**0, x**1, x**4, x**5, x * x * x, -x]

    x = torch.arange(-40, 81).to(dtype)
    compiled(Wrapped(), {"x": x}, target).check({"x": x}, EXACT)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64], ids=str)
def test_shifts(compiled, target, dtype):
    class Shifted(torch.nn.Module):
        def forward(self, x, y):
            return [x << y, x >> y, x << 3, x >> 2]

    inputs = {"x": torch.arange(-40, 81).to(dtype), "y": torch.arange(121).to(dtype) % 70}
    compiled(Shifted(), inputs, target).check(inputs, EXACT)


def test_powers_of_integers_by_a_tensor_are_refused(compiled):
    class Power(torch.nn.Module):
        def forward(self, x, y):
            return x**y

    x = torch.arange(4)
    with pytest.raises(UnsupportedError, match="powers of integers by a tensor"):
        compiled(Power(), {"x": x, "y": x})


class Movement(torch.nn.Module):
    def forward(self, x, index):
        table = x.flatten(1).repeat(1, 2)
        return [
            torch.cat([x, x + 1], 1), torch.cat([x, x * 2], -1), F.pad(x, (1, 2, 0, 1)),
            F.pad(x, (0, 0, 2, 1), value=3.0), x.flip(1), x.roll(2, -1), x[:, 1:, ::2],
            x.permute(2, 0, 1), x.transpose(1, 2).reshape(x.shape[0], -1), x[:, -1],
            F.embedding(index, table), x[index.clamp(max=x.shape[0] - 1)], x.repeat(2, 1, 1),
            x.repeat_interleave(2, 1), torch.stack([x, x]), x.expand(2, *x.shape),
            x.index_select(1, index.clamp(max=x.shape[1] - 1)), x.unfold(2, 2, 1) * 1,
            torch.tril(x), torch.triu(x, 1), x.select(2, 1), x.chunk(2, 2)[1] + 0,
        ]  # fmt: skip


class Joined(torch.nn.Module):
    """Concatenations along every dimension with operators behind them."""

    def __init__(self, shape):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(3.0 * shape[1]).view(-1, 1))

    def forward(self, x, y):
        whole = torch.cat([x, y, x + 1], 1)
        twice = torch.cat([x, x], -1)
        return [
            (whole * self.scale).relu(), torch.cat([x, y], 0) > 0, torch.cat([y, x, y], -1) * 2,
            torch.cat([x, y], 2) + x.mean((1, 2), True), twice, torch.cat([x, y], 1).transpose(0, 2)
        ]  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 3, 40), (1, 5, 7), (3, 1, 1)], ids=str)
def test_concatenations(compiled, target, shape):
    generator = torch.Generator().manual_seed(9)
    inputs = {name: torch.randn(shape, generator=generator) for name in "xy"}
    compiled(Joined(shape), inputs, target).check(inputs, FLOAT)


def test_concatenations_of_symbolic_sizes(compiled, target):
    class Lengths(torch.nn.Module):
        def forward(self, x, y):
            return torch.cat([x, y, x], 1).relu(), torch.cat([y, x], 1)

    dim = torch.export.Dim
    dynamic = {"x": {1: dim("first", min=1, max=99)}, "y": {1: dim("second", min=1, max=99)}}
    given = {"x": torch.randn(2, 7, 5), "y": torch.randn(2, 40, 5)}
    built = compiled(Lengths(), given, target, dynamic)
    for first, second in ((7, 40), (1, 99), (33, 1)):
        built.check({"x": torch.randn(2, first, 5), "y": torch.randn(2, second, 5)}, EXACT)


def test_operators_that_move_elements(compiled, target):
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(5))
    index = torch.tensor([2, 0, 3, 3, 1])
    inputs = {"x": x, "index": index}
    compiled(Movement(), inputs, target).check(inputs, EXACT)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_permuted_operands(compiled, shape, order):
    dims = list(range(len(shape)))
    order.shuffle(dims)

    class Permuted(torch.nn.Module):
        def forward(self, x, y):
            return x.permute(dims) * 2 + y, (x + 1).permute(dims).contiguous()

    x = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    y = torch.randn(shape[dims[-1]], generator=torch.Generator().manual_seed(7))
    inputs = {"x": x, "y": y}
    compiled(Permuted(), inputs).check(inputs, FLOAT)


def test_symbolic_sizes(compiled, target):
    class Masked(torch.nn.Module):
        def forward(self, x):
            length = x.shape[1]
            positions = torch.arange(length)
            return torch.where(positions[None, :] > 2, x * positions, x), positions[:, None] * 2

    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 1: dim("length", min=1, max=200)}}
    model = compiled(Masked(), {"x": torch.randn(3, 50)}, target, dynamic)
    for batch, length in ((1, 1), (2, 7), (8, 200), (3, 16), (1, 33)):
        model.check({"x": torch.randn(batch, length)}, FLOAT)


def test_sizes_between_operands(compiled, target):
    class Wrapped(torch.nn.Module):
        def forward(self, x, y):
            return torch.where(x < 0, x + x.shape[0], x) * x.shape[0] + y * 2

    dynamic = {name: {0: torch.export.Dim("length", min=1, max=200)} for name in "xy"}
    inputs = {"x": torch.arange(-25, 25), "y": torch.arange(50)}
    model = compiled(Wrapped(), inputs, target, dynamic)
    for length in (1, 7, 50):
        model.check({name: value[:length] for name, value in inputs.items()}, EXACT)
