"""Low-bit codes and the operators that read them, against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import effc.ir.ops
from effc.ir.encoding import pack_codes, packed_nbytes, unpack_codes

assert effc.ir.ops  # registers effc's operators

OPS = torch.ops.effc
BITS, SEEDS = st.integers(2, 8), st.integers(0, 999)


def drawn(seed: int, bits: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint8)


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as bytes, by numpy's own packing of single bits."""
    single = (codes[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


@given(st.integers(1, 8), st.integers(0, 40), SEEDS)
def test_packing(bits, count, seed):
    codes = drawn(seed, bits, 3, count)
    found = pack_codes(torch.from_numpy(codes), bits)
    assert found.dtype == torch.uint8
    assert found.shape == (3, packed_nbytes(count, bits))
    np.testing.assert_array_equal(found.numpy(), bit_stream(codes, bits))
    np.testing.assert_array_equal(unpack_codes(found, bits, count).numpy(), codes)


def operands(seed, bits, group, features, rows, planes, has_zeros):
    """Codes, scales and zero points as integers and floats, and as the operators take them."""
    outer = (rows,) if planes == 1 else (planes, rows)
    groups = -(-features // group)
    codes, zeros = drawn(seed, bits, *outer, features), drawn(seed + 1, bits, *outer, groups)
    scale = torch.from_numpy(np.random.default_rng(seed).standard_normal((*outer, groups)))
    scale = scale.to(torch.bfloat16)
    stored = torch.from_numpy(bit_stream(zeros, bits)) if has_zeros else None
    zeros = zeros if has_zeros else np.full_like(zeros, 1 << (bits - 1))
    place = np.arange(features) // group
    centred = codes.astype(np.int64) - zeros[..., place]
    steps = scale.double().numpy()[..., place]
    given_operands = torch.from_numpy(bit_stream(codes, bits)), scale, stored, bits, group
    return centred, steps, given_operands


FORMATS = (BITS, st.sampled_from([32, 64, 7]), st.integers(1, 90), st.integers(1, 4),
           st.integers(1, 2), st.booleans())  # fmt: skip


@given(SEEDS, *FORMATS)
def test_dequantize_grouped(seed, bits, group, features, rows, planes, has_zeros):
    centred, steps, given_operands = operands(seed, bits, group, features, rows, planes, has_zeros)
    found = OPS.dequantize_grouped(*given_operands, features)
    expected = (centred * steps).reshape(-1, rows, features).sum(0)
    assert found.shape == (rows, features)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@given(SEEDS, *FORMATS)
def test_products(seed, bits, group, features, rows, planes, has_zeros):
    centred, steps, given_operands = operands(seed, bits, group, features, rows, planes, has_zeros)
    x = np.random.default_rng(seed).integers(-127, 128, (2, 3, features)).astype(np.int8)
    weight = (centred * steps).reshape(-1, rows, features).sum(0)
    exact = x.astype(np.float64) @ weight.T
    allowed = 1e-5 * (np.abs(x).astype(np.float64) @ np.abs(weight).T).max() + 1e-3
    found = OPS.linear_grouped_integer(torch.from_numpy(x), *given_operands)
    np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=allowed)
    found = OPS.linear_grouped(torch.from_numpy(x).float(), *given_operands)
    np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=allowed)


def test_groups_are_added_in_order():
    """The first group's sum is lost beside the second's only if it is added first."""
    codes = torch.tensor([[8 + 1] * 2 + [8 + 7] * 2])
    scale = torch.tensor([[2.0**-30, 2.0**10]])
    x = torch.ones(1, 4, dtype=torch.int8)
    found = OPS.linear_grouped_integer(x, pack_codes(codes, 4), scale, None, 4, 2)
    assert float(found) == 2.0**10 * 14


@pytest.mark.parametrize("dims", [(-1,), (1, 2)], ids=str)
@given(SEEDS)
def test_quantize_symmetric(dims, seed):
    x = np.random.default_rng(seed).standard_normal((3, 4, 5)).astype(np.float32)
    x[1] = 0
    step = np.abs(x).max(dims, keepdims=True) * np.float32(1 / 127)
    scale = np.where(step > 0, step, np.float32(1))
    found, steps = OPS.quantize_symmetric(torch.from_numpy(x), list(dims), 127, torch.int8)
    np.testing.assert_array_equal(steps.numpy(), scale)
    expected = np.clip(np.rint(x * (np.float32(1) / scale)), -127, 127)
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.int8))
    assert bool((np.abs(found.numpy() * scale - x) <= 0.501 * scale).all())


@pytest.mark.parametrize(
    ("codes", "scale", "zeros", "settings", "message"),
    [
        ((4, 16), (4, 1), None, (9, 32), "codes of 9 bits; there are 2 to 8"),
        ((4, 15), (4, 1), None, (4, 32), "32 codes of 4 bits in 15 bytes"),
        ((4, 16), (4, 2), None, (4, 32), "of 1 groups per row of codes"),
        ((4, 16), (4, 1), (4, 2), (4, 32), r"zero points \[4, 2\] are not \[4, 1\]"),
    ],
)
def test_shapes_that_do_not_fit(codes, scale, zeros, settings, message):
    stored = torch.zeros(codes, dtype=torch.uint8, device="meta")
    steps = torch.ones(scale, device="meta")
    zero_point = None if zeros is None else torch.zeros(zeros, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match=message):
        OPS.dequantize_grouped(stored, steps, zero_point, *settings, 32)
