"""Histograms on a power-of-two grid: exact whatever the order and the batches."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.passes.calibrate.histogram import BINS, Histogram

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)


def histogram_of(values: np.ndarray) -> Histogram:
    return Histogram.of([values], float(values.min()), float(values.max()))


def counted_by_hand(values: np.ndarray, exponent: int) -> dict[int, int]:
    """Grid cell to count, with exact rational arithmetic."""
    cells: dict[int, int] = {}
    for value in values.tolist():
        numerator, denominator = value.as_integer_ratio()
        scaled = (numerator, denominator * 2**exponent)
        if exponent < 0:
            scaled = (numerator * 2**-exponent, denominator)
        cell = scaled[0] // scaled[1]
        cells[cell] = cells.get(cell, 0) + 1
    return cells


def as_cells(histogram: Histogram) -> dict[int, int]:
    used = np.flatnonzero(histogram.counts)
    return {histogram.start + int(i): int(histogram.counts[i]) for i in used}


@given(st.lists(SINGLES, min_size=1, max_size=40))
def test_counts_are_exact(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    found = histogram_of(values)
    assert as_cells(found) == counted_by_hand(values, found.exponent)
    assert found.counts[0] > 0
    assert found.total == len(values)


@given(st.lists(st.lists(SINGLES, min_size=1, max_size=10), min_size=2, max_size=6), st.randoms())
def test_merging_in_any_order_equals_counting_at_once(parts: list[list[float]], random) -> None:
    whole = histogram_of(np.concatenate([np.array(part, np.float32) for part in parts]))
    random.shuffle(parts)
    merged = histogram_of(np.array(parts[0], np.float32))
    for part in parts[1:]:
        merged = merged.merged(histogram_of(np.array(part, np.float32)))
    assert (merged.exponent, merged.start) == (whole.exponent, whole.start)
    assert np.array_equal(merged.counts, whole.counts)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(-20, 20))
def test_the_range_uses_at_least_half_of_the_bins(seed: int, magnitude: int) -> None:
    values = np.random.default_rng(seed).normal(0, 10.0**magnitude, 500).astype(np.float32)
    found = histogram_of(values)
    assert BINS // 2 <= len(found.used()) <= BINS


def test_edges_are_multiples_of_the_width_and_hold_zero() -> None:
    found = histogram_of(np.array([-1.0, 3.0], np.float32))
    edges = found.edges()
    assert 0.0 in edges
    assert edges[0] == -1.0
    assert edges[-1] == 3.0 + found.width
    assert len(edges) == len(found.used()) + 1


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0])
def test_a_single_value(value: float) -> None:
    found = histogram_of(np.full(7, value, np.float32))
    exact = float(np.float32(value))
    assert found.counts[0] == 7
    assert found.start == math.floor(exact / found.width)


def test_growth_of_the_range_joins_whole_bins() -> None:
    small = histogram_of(np.linspace(0, 1, 4096, dtype=np.float32))
    grown = small.merged(histogram_of(np.array([100.0], np.float32)))
    factor = 2 ** (grown.exponent - small.exponent)
    joined = small.counts.reshape(-1, factor).sum(1) if BINS % factor == 0 else None
    assert joined is not None
    assert np.array_equal(grown.counts[: len(joined) - 1], joined[:-1])
