"""Observers choose the range that the codes of a value cover, from its histogram.

Each is a function (histogram, minimum, maximum, codes, symmetric) -> (low, high) with
low <= 0 <= high, and low < high unless every value is 0. `codes` is the number of levels; a
symmetric range has low == -high.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from effc.passes.calibrate.divergence import least_divergent
from effc.passes.calibrate.error import levels, squared_error
from effc.passes.calibrate.histogram import Histogram

ObserverName = Literal["minmax", "percentile", "entropy", "mse"]
Range = tuple[float, float]
Observer = Callable[[Histogram, float, float, int, bool], Range]

FRACTIONS = np.linspace(0.02, 1.0, 50)  # of an end, tried first
REFINED = np.linspace(-0.02, 0.02, 21)  # around the best of those
LEAST_FRACTION = 1e-3
ROUNDS = 2


def observer(name: ObserverName, percentile: float = 99.99) -> Observer:
    """The observer of a name; `percentile` is in percent and only read by that observer."""
    table: dict[ObserverName, Observer] = {
        "minmax": minmax,
        "percentile": partial(within_percentile, percentile),
        "entropy": entropy,
        "mse": mse,
    }
    return table[name]


def minmax(
    histogram: Histogram, minimum: float, maximum: float, codes: int, symmetric: bool
) -> Range:
    """Everything seen."""
    return _with_zero(minimum, maximum, symmetric)


def within_percentile(
    percentile: float,
    histogram: Histogram,
    minimum: float,
    maximum: float,
    codes: int,
    symmetric: bool,
) -> Range:
    """Leave out at most `100 - percentile` percent of the values at each end.

    A bin is in the range as a whole or not at all. For a symmetric range the percentage counts
    magnitudes.
    """
    outside = int((100.0 - percentile) / 100.0 * histogram.total + 1e-6)
    edges, counts = histogram.edges(), histogram.used()
    if symmetric:
        reach = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
        order = np.argsort(reach)
        kept = np.cumsum(counts[order]) >= histogram.total - outside
        end = float(reach[order][np.argmax(kept)])
        return _with_zero(max(minimum, -end), min(maximum, end), symmetric)
    above = np.cumsum(counts) >= histogram.total - outside
    below = np.cumsum(counts[::-1]) >= histogram.total - outside
    high = min(maximum, float(edges[1:][np.argmax(above)]))
    low = max(minimum, float(edges[:-1][::-1][np.argmax(below)]))
    return _with_zero(low, high, symmetric)


def entropy(
    histogram: Histogram, minimum: float, maximum: float, codes: int, symmetric: bool
) -> Range:
    """The range after which the quantized distribution says most about the original.

    Least Kullback-Leibler divergence, S. Migacz, "8-bit Inference with TensorRT", GTC 2017; see
    `divergence.py` for the departures.
    """
    low, high = _with_zero(minimum, maximum, symmetric)
    if low == high:
        return low, high
    return least_divergent(histogram, low, high, codes, symmetric)


def mse(histogram: Histogram, minimum: float, maximum: float, codes: int, symmetric: bool) -> Range:
    """The range of least expected squared quantization error, both ends searched in turn."""
    widest = np.array(_with_zero(minimum, maximum, symmetric))
    if widest[0] == widest[1]:
        return 0.0, 0.0
    best = np.ones(2)
    for moves in [(True, True)] if symmetric else [(False, True), (True, False)] * ROUNDS:
        for coarse, steps in ((0.0, FRACTIONS), (1.0, REFINED)):
            moved = np.clip(coarse * best + steps[:, None], LEAST_FRACTION, 1.0)
            tried = np.vstack([best, np.where(moves, moved, best)])
            ends = tried * widest
            low, high = levels(ends[:, 0], ends[:, 1], codes, symmetric)
            best = tried[np.argmin(squared_error(histogram, low, high, codes))]
    return float(best[0] * widest[0]), float(best[1] * widest[1])


def _with_zero(low: float, high: float, symmetric: bool) -> Range:
    low, high = min(low, 0.0), max(high, 0.0)
    end = max(-low, high)
    return (-end, end) if symmetric else (low, high)
