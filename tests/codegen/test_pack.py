"""Packed weights against the definition of their layout, written element by element."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effc.codegen.pack import (
    ColumnSums,
    PackCodes,
    PackDepthwise,
    PackGroups,
    PackProduct,
    PackTaps,
    fields_of,
    known,
    panels,
)
from effc.ir.encoding import pack_codes

SMALL = st.integers(1, 9)


def codes(*shape: int) -> np.ndarray:
    """Different numbers, none of them zero, so that padding and misplaced elements show."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(np.int32)


def packed(matrix: np.ndarray, width: int, depth: int) -> np.ndarray:
    """`[groups, panels, taps, blocks, width, depth]` of `[groups, taps, features, columns]`."""
    groups, taps, features, columns = matrix.shape
    shape = (groups, -(-columns // width), taps, -(-features // depth), width, depth)
    result = np.zeros(shape, matrix.dtype)
    for group, tap, feature, column in product(*map(range, matrix.shape)):
        panel, place = divmod(column, width)
        block, position = divmod(feature, depth)
        value = matrix[group, tap, feature, column]
        result[group, panel, tap, block, place, position] = value
    return result


@given(*[SMALL] * 4, st.sampled_from([1, 3, 16]), st.sampled_from([1, 2, 4]))
def test_panels(groups, taps, features, columns, width, depth):
    matrix = codes(groups, taps, features, columns)
    found = panels(matrix, width, depth)
    np.testing.assert_array_equal(found, packed(matrix, width, depth))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@given(SMALL, SMALL)
def test_linear_weights(dtype, columns, features):
    weight = codes(columns, features).astype(dtype)
    found = PackProduct(1, 4, 4)([None, torch.from_numpy(weight)])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, packed(weight.T[None, None], 4, 4))


@given(st.integers(1, 3), SMALL, SMALL, st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_filters(groups, columns, features, height, width, joins_row):
    weight = codes(groups * columns, features, height, width)
    taps = height if joins_row else height * width
    run = width * features if joins_row else features
    matrix = np.zeros((groups, taps, run, columns), np.int32)
    for column, feature, row, tap in product(*map(range, weight.shape)):
        group, place = divmod(column, columns)
        value = weight[column, feature, row, tap]
        if joins_row:
            matrix[group, row, tap * features + feature, place] = value
        else:
            matrix[group, row * width + tap, feature, place] = value
    found = PackProduct(0, 8, 2, groups, joins_row)([torch.from_numpy(weight)])
    np.testing.assert_array_equal(found, packed(matrix, 8, 2))


@pytest.mark.parametrize("zero_point", [None, 0, 7, 255])
@given(st.integers(1, 3), SMALL, SMALL, st.integers(0, 99))
def test_sums_of_columns(zero_point, groups, columns, features, seed):
    weight = np.random.default_rng(seed).integers(-128, 128, (groups * columns, features, 2, 3))
    tensors = [torch.from_numpy(weight.astype(np.int8)), None]
    if zero_point is not None:
        tensors[1] = torch.tensor(zero_point, dtype=torch.int32)
    found = ColumnSums(0, None if zero_point is None else 1, 4, groups)(tensors)
    assert found.shape == (groups, -(-columns // 4) * 4)
    assert found.dtype == np.int32
    factor = -1 if zero_point is None else -zero_point
    for group, place in product(range(groups), range(found.shape[1])):
        inside = place < columns
        total = int(weight[group * columns + place].sum()) if inside else 0
        assert found[group, place] == factor * total


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_depthwise_filters(dtype, channels, height, width):
    weight = (codes(channels, 1, height, width) % 100).astype(dtype)
    found = PackDepthwise(0, 8)([torch.from_numpy(weight)])
    assert found.shape == (height, width, -(-channels // 8) * 8)
    assert found.dtype == np.float32
    for row, column, channel in product(*map(range, found.shape)):
        expected = weight[channel, 0, row, column] if channel < channels else 0
        assert found[row, column, channel] == expected


def test_an_operand_that_is_no_weight_is_refused():
    with pytest.raises(ValueError, match=r"^input 1 is no weight$"):
        known([torch.ones(1), None], 1)


@given(st.integers(1, 9), st.sampled_from([2, 4]))
def test_filters_of_four_taps(channels, lanes):
    filters = codes(channels, 1, 2, 3).astype(np.int8)
    steps = ((0, 3, -1, -1), (5, -1, 4, 2))
    found = PackTaps(1, lanes, steps)([None, torch.from_numpy(filters)])
    assert found.shape == (-(-channels // lanes), 2, lanes, 4)
    for block, step, lane, place in product(*map(range, found.shape)):
        channel, tap = block * lanes + lane, steps[step][place]
        is_there = tap >= 0 and channel < channels
        expected = filters.reshape(channels, -1)[channel, tap] if is_there else 0
        assert found[block, step, lane, place] == expected


def test_fields_of_codes():
    assert fields_of(8) == [(0, 8)]
    assert fields_of(4) == [(0, 4)]
    assert fields_of(3) == [(0, 2), (2, 1)]
    assert fields_of(7) == [(0, 4), (4, 2), (6, 1)]


@given(
    st.integers(2, 8), st.sampled_from([32, 64, 300]), st.integers(1, 130), st.integers(1, 9),
    st.integers(1, 2), st.integers(0, 99),
)  # fmt: skip
def test_low_bit_codes(bits, group, features, columns, planes, seed):
    """Every code from where the layout says its fields are; everything else is zero."""
    vectors, lanes = 2, 4
    weight = np.random.default_rng(seed).integers(0, 1 << bits, (planes, columns, features))
    stored = pack_codes(torch.from_numpy(weight), bits)
    packed = PackCodes(0, bits, group, features, vectors, lanes)([stored]).copy()
    blocks, size = -(-features // 32), -(-group // 32)
    assert packed.shape == (-(-columns // 8), planes * blocks, vectors, bits, lanes, 4)
    assert packed.dtype == np.uint8
    for plane, column, feature in product(*map(range, weight.shape)):
        block, inside = divmod(feature, 32)
        first = block // size * size
        ahead = planes * first + plane * min(size, blocks - first) + block - first
        panel, place = divmod(column, vectors * lanes)
        step, byte, code, used = inside // 4, inside % 4, 0, 0
        for low, width in fields_of(bits):
            number, turn = divmod(step, 8 // width)
            at = panel, ahead, place // lanes, used + number, place % lanes, byte
            field = (int(packed[at]) >> (turn * width)) & ((1 << width) - 1)
            code |= field << low
            packed[at] &= 255 ^ (((1 << width) - 1) << (turn * width))
            used += width
        assert code == weight[plane, column, feature]
    assert not packed.any()


@pytest.mark.parametrize("bits", [None, 3])
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 2))
def test_what_groups_have(bits, columns, groups, planes):
    values = codes(planes, columns, groups) % 8
    stored = torch.from_numpy(values)
    stored = stored.float() if bits is None else pack_codes(stored, bits)
    found = PackGroups(0, 8, bits, groups)([stored])
    assert found.shape == (-(-columns // 8), groups, planes, 8)
    for panel, group, plane, place in product(*map(range, found.shape)):
        column = panel * 8 + place
        expected = values[plane, column, group] if column < columns else 0
        assert found[panel, group, plane, place] == expected
