"""Observers against brute force and against independent implementations."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.passes.calibrate.divergence import CANDIDATES, EMPTY, LEAST_FRACTION
from effc.passes.calibrate.error import levels, squared_error
from effc.passes.calibrate.histogram import Histogram
from effc.passes.calibrate.observers import ObserverName, observer

NAMES = get_args(ObserverName)
CODES = {False: 256, True: 255}
COUNT = 20_000


def normal(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0.2, 1, COUNT)


def heavy(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, COUNT)


def relu(rng: np.random.Generator) -> np.ndarray:
    return np.maximum(rng.normal(0, 2, COUNT), 0)


def outliers(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([rng.normal(0, 1, COUNT), [60.0, -80.0]])


SAMPLES: list[Callable[[np.random.Generator], np.ndarray]] = [normal, heavy, relu, outliers]


def sample(make: Callable[[np.random.Generator], np.ndarray]) -> np.ndarray:
    return make(np.random.default_rng(0)).astype(np.float32)


def observed(name: ObserverName, values: np.ndarray, symmetric: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return observer(name)(Histogram.of([values], low, high), low, high, CODES[symmetric], symmetric)


def error_on(values: np.ndarray, low: float, high: float, symmetric: bool) -> float:
    """Mean squared error of quantizing every value to a range that holds 0 as a level."""
    count = CODES[symmetric]
    step = (2 * max(-low, high) if symmetric else high - low) / (count - 1)
    zero = (count - 1) // 2 if symmetric else np.clip(np.round(-low / step), 0, count - 1)
    codes = np.clip(np.round(values.astype(np.float64) / step) + zero, 0, count - 1)
    return float(np.mean((step * (codes - zero) - values) ** 2))


@pytest.mark.parametrize("make", SAMPLES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_as_good_as_brute_force(make, symmetric: bool) -> None:
    values = sample(make)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    steps = np.linspace(0.05, 1, 40)
    lows = [0.0] if low == 0 else low * steps
    best = min(error_on(values, a, b, symmetric) for a in lows for b in high * steps)
    assert error_on(values, *observed("mse", values, symmetric), symmetric) <= 1.02 * best


@pytest.mark.parametrize("make", [normal, heavy, outliers])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_error_read_off_the_histogram_is_the_error(make, symmetric: bool, share: float) -> None:
    values = sample(make)
    low, high = share * float(values.min()), share * float(values.max())
    histogram = Histogram.of([values], float(values.min()), float(values.max()))
    ends = levels(low, high, CODES[symmetric], symmetric)
    predicted = float(squared_error(histogram, *ends, CODES[symmetric])[0])
    assert predicted == pytest.approx(error_on(values, low, high, symmetric), rel=0.03)


@pytest.mark.parametrize("make", SAMPLES)
@pytest.mark.parametrize(("percent", "outside"), [(99.0, 200), (99.9, 20), (99.99, 2)])
def test_percentile_leaves_out_so_many_up_to_a_bin(make, percent: float, outside: int) -> None:
    values = sample(make)
    low, high = float(values.min()), float(values.max())
    histogram = Histogram.of([values], low, high)
    found = observer("percentile", percent)(histogram, low, high, 256, False)
    inner = np.sort(values)[outside:-outside]
    assert found[0] == pytest.approx(min(inner[0], 0), abs=histogram.width)
    assert found[1] == pytest.approx(max(inner[-1], 0), abs=histogram.width)
    end = observer("percentile", percent)(histogram, low, high, 255, True)[1]
    assert end == pytest.approx(np.sort(np.abs(values))[-outside - 1], abs=histogram.width)


def divergence_by_hand(histogram: Histogram, high: float, codes: int) -> float:
    """KL(P || Q) of clipping values from 0 at `high`, bin by bin as the paper says it."""
    middles = [(histogram.start + i + 0.5) * histogram.width for i in range(len(histogram.counts))]
    counts = histogram.counts.tolist()
    counts[0] = min(counts[0], counts[1])
    kept = [i for i, middle in enumerate(middles) if middle <= high and i < len(histogram.used())]
    reference = {i: float(counts[i]) for i in kept}
    reference[kept[-1]] += sum(counts[kept[-1] + 1 :])
    members: dict[int, list[int]] = {}
    for i in kept:
        level = min(int(middles[i] / high * codes), codes - 1)
        members.setdefault(level, []).append(i)
    spread: dict[int, float] = {}
    for inside in members.values():
        filled = [i for i in inside if counts[i]]
        for i in filled:
            spread[i] = sum(counts[j] for j in inside) / len(filled)
    all_p, all_q = sum(reference.values()), sum(spread.values())
    return sum(
        p / all_p * math.log(p / all_p / max(spread.get(i, 0.0) / all_q, EMPTY))
        for i, p in reference.items()
        if p
    )


def test_entropy_minimises_the_divergence() -> None:
    values = sample(relu)
    top = float(values.max())
    histogram = Histogram.of([values], 0.0, top)
    candidates = np.linspace(LEAST_FRACTION, 1, CANDIDATES) * top
    by_hand = [divergence_by_hand(histogram, high, 256) for high in candidates.tolist()]
    assert observed("entropy", values, False) == (0.0, candidates[int(np.argmin(by_hand))])


def test_entropy_ignores_the_spike_of_relu_at_zero() -> None:
    values = sample(relu)
    assert observed("entropy", values, False)[1] > 0.8 * values.max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_give_an_empty_range(name: ObserverName, symmetric: bool) -> None:
    assert observed(name, np.zeros(5, np.float32), symmetric) == (0.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.booleans(),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30).filter(any),
)
def test_a_range_holds_zero_and_lies_in_what_was_seen(
    name: ObserverName, symmetric: bool, numbers: list[float]
) -> None:
    values = np.array(numbers, np.float32)
    low, high = observed(name, values, symmetric)
    reach = float(np.abs(values).max())
    assert low <= 0 <= high
    assert low < high
    if symmetric:
        assert low == -high
        assert high <= reach
    else:
        assert low >= min(float(values.min()), 0)
        assert high <= max(float(values.max()), 0)


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_all_positive_start_at_zero(name: ObserverName) -> None:
    values = np.linspace(5, 6, 1000, dtype=np.float32)
    low, high = observed(name, values, False)
    assert low == 0.0
    assert high == pytest.approx(6.0, rel=0.02)
