"""The meaning of effc's own operators against plain numpy: saturation, ties, NaN, zero points."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import effc.ir.ops  # noqa: F401 - registers the operators

OPS = torch.ops.effc
RANGES = [(0, 255, torch.uint8), (-128, 127, torch.int8), (-127, 127, torch.int8)]
SMALL = st.integers(1, 5)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def codes(x: np.ndarray, inverse: np.ndarray, zero: np.ndarray | None, low: int, high: int):
    """`clamp(round_half_even(x * inverse) + zero)`, one float32 operation at a time; NaN is 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.rint(x.astype(np.float32) * inverse.astype(np.float32))
        found = found if zero is None else found + zero.astype(np.float32)
    limited = np.minimum(np.maximum(found, low), high)
    return np.where(np.isnan(found), 0, limited).astype(np.int64)


def both_quantizers(x, scale, zero, low, high, dtype):
    """Codes by the scale, and by its reciprocal."""
    tensors = [torch.from_numpy(x), torch.from_numpy(scale)]
    zero_point = None if zero is None else torch.from_numpy(zero)
    yield OPS.quantize(*tensors, zero_point, low, high, dtype)
    inverse = torch.from_numpy(np.asarray(np.float32(1) / scale))
    yield OPS.quantize_scaled(tensors[0], inverse, zero_point, low, high, dtype)


@pytest.mark.parametrize(("low", "high", "dtype"), RANGES, ids=str)
@pytest.mark.parametrize("shape", [(), (1, 5), (4, 1)], ids=["tensor", "channel", "token"])
@pytest.mark.parametrize("has_zero", [True, False])
@given(st.integers(0, 99), st.sampled_from([1e-3, 0.1, 1.0, 1e4]))
def test_quantize(low, high, dtype, shape, has_zero, seed, size):
    made = random(seed)
    x = (made.standard_normal((4, 5)) * size).astype(np.float32)
    scale = np.asarray(made.uniform(1e-3, 2, shape), np.float32)
    zero = np.asarray(made.integers(low, high + 1, shape), np.int32) if has_zero else None
    expected = codes(x, np.float32(1) / scale, zero, low, high)
    for found in both_quantizers(x, scale, zero, low, high, dtype):
        assert found.dtype == dtype
        assert found.shape == x.shape
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(("low", "high", "dtype"), RANGES, ids=str)
def test_quantize_at_the_edges(low, high, dtype):
    x = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32
    )
    ties = [0, 2, 2, 0, max(-2, low)]
    expected = [*ties, high, low, high, low, 0, 0, 0]
    for found in both_quantizers(x, np.ones((), np.float32), None, low, high, dtype):
        assert found.tolist() == expected


@pytest.mark.parametrize("has_zero", [True, False])
@given(st.integers(0, 99))
def test_dequantize(has_zero, seed):
    made = random(seed)
    values = made.integers(0, 256, (3, 4)).astype(np.uint8)
    scale = made.uniform(1e-3, 2, (3, 1)).astype(np.float32)
    zero = made.integers(0, 256, (3, 1)).astype(np.int32)
    found = OPS.dequantize(*map(torch.from_numpy, (values, scale)),
                           torch.from_numpy(zero) if has_zero else None)  # fmt: skip
    shifted = values.astype(np.int64) - (zero if has_zero else 0)
    np.testing.assert_array_equal(found.numpy(), shifted.astype(np.float32) * scale)


@given(st.integers(0, 99), st.sampled_from([1e-4, 1.0, 300.0]), st.sampled_from(["", "+", "-"]))
def test_quantize_then_dequantize_is_within_half_a_step(seed, size, sign):
    """Of run-time scales; rounding of the zero point costs another half."""
    x = torch.from_numpy(random(seed).standard_normal((3, 7)).astype(np.float32) * np.float32(size))
    x = {"": x, "+": x.abs(), "-": -x.abs()}[sign]
    found, scale, zero = OPS.quantize_dynamic(x, [-1], 0, 255, torch.uint8)
    error = (OPS.dequantize(found, scale, zero) - x).abs()
    assert bool((error <= scale * 1.001).all())
    assert bool(((zero >= 0) & (zero <= 255)).all())
    assert OPS.dequantize(zero.to(torch.uint8), scale, zero).abs().max() == 0


@pytest.mark.parametrize(("low", "high", "dtype"), RANGES, ids=str)
@pytest.mark.parametrize("dims", [(-1,), (1, 2), (0, 1, 2)], ids=str)
@given(st.integers(0, 99))
def test_quantize_dynamic(low, high, dtype, dims, seed):
    x = (random(seed).standard_normal((3, 4, 5)) + seed % 3 - 1).astype(np.float32)
    x[1] = 0
    smallest = np.minimum(x.min(dims, keepdims=True), np.float32(0))
    largest = np.maximum(x.max(dims, keepdims=True), np.float32(0))
    step = (largest - smallest) * np.float32(1 / (high - low))
    scale = np.where(step > 0, step, np.float32(1))
    zero = np.clip(low - np.rint(smallest * (np.float32(1) / scale)), low, high).astype(np.int32)
    found = OPS.quantize_dynamic(torch.from_numpy(x), list(dims), low, high, dtype)
    np.testing.assert_array_equal(found[1].numpy(), scale)
    np.testing.assert_array_equal(found[2].numpy(), zero)
    np.testing.assert_array_equal(
        found[0].numpy(), codes(x, np.float32(1) / scale, zero, low, high)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per", ["none", "tensor", "token"])
@given(SMALL, st.integers(1, 300), SMALL, st.integers(0, 99))
def test_linear_integer(dtype, per, rows, features, columns, seed):
    made, limits = random(seed), np.iinfo(dtype)
    x = made.integers(limits.min, limits.max + 1, (2, rows, features)).astype(dtype)
    weight = made.integers(-128, 128, (columns, features)).astype(np.int8)
    zero = {"none": None, "tensor": made.integers(0, 256, ()), "token": (2, rows, 1)}[per]
    zero = made.integers(0, 256, zero) if isinstance(zero, tuple) else zero
    centred = x.astype(np.int64) - (0 if zero is None else zero)
    expected = np.einsum("brf,cf->brc", centred, weight.astype(np.int64))
    given_zero = None if zero is None else torch.from_numpy(np.asarray(zero, np.int32))
    found = OPS.linear_integer(torch.from_numpy(x), torch.from_numpy(weight), given_zero)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("groups", [1, 2])
@given(st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_conv2d_integer(groups, stride, padding, dilation, per_image, seed):
    made = random(seed)
    x = made.integers(0, 256, (2, 4, 7, 6)).astype(np.uint8)
    weight = made.integers(-128, 128, (6, 4 // groups, 3, 2)).astype(np.int8)
    zero = made.integers(0, 256, (2, 1, 1, 1) if per_image else ()).astype(np.int32)
    steps = [stride, 1], [padding, 1], [1, dilation]
    found = OPS.conv2d_integer(*map(torch.from_numpy, (x, weight)),
                               torch.from_numpy(np.asarray(zero)), *steps, groups)  # fmt: skip
    expected = convolved(x.astype(np.int64) - zero, weight.astype(np.int64), *steps, groups)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found.numpy(), expected)


def convolved(x, weight, stride, padding, dilation, groups):
    """The definition, tap by tap; what is padded is zero."""
    padded = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    height, width = (
        (padded.shape[2 + i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    result = np.zeros((x.shape[0], weight.shape[0], height, width), np.int64)
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    for channel, row, column in np.ndindex(weight.shape[0], height, width):
        first = channel // outputs * inputs
        top, left = row * stride[0], column * stride[1]
        window = padded[:, first : first + inputs, top:, left:][..., :: dilation[0], :: dilation[1]]
        taps = window[:, :, : weight.shape[2], : weight.shape[3]] * weight[channel]
        result[:, channel, row, column] = taps.sum((1, 2, 3))
    return result


@given(st.integers(0, 999))
def test_fused_multiply_add(seed):
    """Integers become float32 first; the product is not rounded."""
    made = random(seed)
    totals = made.integers(-(2**31), 2**31, (4, 3)).astype(np.int32)
    multiplier = made.standard_normal(3).astype(np.float32)
    addend = (made.standard_normal(3) * 1e6).astype(np.float32)
    exact = totals.astype(np.float32).astype(np.float64) * multiplier + addend
    found = OPS.fused_multiply_add(*map(torch.from_numpy, (totals, multiplier, addend)))
    np.testing.assert_array_equal(found.numpy(), exact.astype(np.float32))


def test_a_product_that_would_be_rounded():
    x, addend = torch.tensor([1 + 2.0**-12]), torch.tensor([-1.0])
    assert float(OPS.fused_multiply_add(x, x, addend)) == 2.0**-11 + 2.0**-24
    assert float(x * x + addend) == 2.0**-11


@pytest.mark.parametrize(("low", "high", "dtype"), [*RANGES, (7, 200, torch.uint8)], ids=str)
@given(st.integers(0, 99))
def test_requantize(low, high, dtype, seed):
    """One rounding of the exact sum, then limits, then half to even."""
    made = random(seed)
    x = made.integers(-(2**20), 2**20, (2, 3, 4)).astype(np.int32)
    multiplier = made.uniform(1e-5, 1e-3, (3, 1)).astype(np.float32)
    addend = made.uniform(-99, 99, (3, 1)).astype(np.float32)
    found = OPS.requantize(*map(torch.from_numpy, (x, multiplier, addend)), low, high, dtype)
    exact = x.astype(np.float64) * multiplier.astype(np.float64) + addend.astype(np.float64)
    expected = np.rint(np.clip(exact.astype(np.float32), low, high))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.int64))


def test_requantize_at_the_edges():
    x = torch.tensor([0.5, 1.5, 2.5, 1e30, -1e30, torch.inf, -torch.inf, torch.nan])
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    found = OPS.requantize(x, one, zero, 2, 255, torch.uint8)
    assert found.tolist() == [2, 2, 2, 255, 2, 255, 2, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
@given(st.integers(0, 99), st.integers(0, 9))
def test_interpolate(dtype, seed, fraction_bits):
    """For every code: its piece's start plus the rounded share of its growth, limited twice."""
    made = random(seed)
    base, slope = made.integers(-(2**15), 2**15, (2, 64)).tolist()
    x = np.arange(-(2**15), 2**15)
    piece = np.floor(x / 1024).astype(np.int64)  # negative ones index from the end
    grown = np.floor(np.float64(slope)[piece] * (x - 1024.0 * piece) / 2**15 + 0.5)
    fine = np.clip(np.float64(base)[piece] + grown, -(2**15), 2**15 - 1)
    limits = np.iinfo(str(dtype).removeprefix("torch."))
    expected = np.clip(np.floor(fine / 2**fraction_bits), limits.min, limits.max)
    short = torch.from_numpy(x.astype(np.int16))
    found = OPS.interpolate(short, base, slope, fraction_bits, dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.numpy(), expected)


def test_interpolate_reads_negative_codes_from_the_end():
    base = list(range(64))
    x = torch.tensor([0, 1023, 1024, 2**15 - 1, -(2**15), -1025, -1024, -1], dtype=torch.int16)
    found = OPS.interpolate(x, base, [0] * 64, 0, torch.uint8)
    assert found.tolist() == [0, 0, 1, 31, 32, 62, 63, 63]
