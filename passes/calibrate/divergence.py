"""Ranges by least Kullback-Leibler divergence, after TensorRT.

S. Migacz, "8-bit Inference with TensorRT", GTC 2017: for every clipping threshold, P is the clipped
histogram with the outliers added to its last bin, Q the same histogram, without the outliers,
merged into as many levels as there are codes and spread evenly over the bins of a level that hold
anything; the threshold of least KL(P || Q) wins. As in NVIDIA's calibrator the bin at 0.0, where
ReLU piles up values that are exact anyway, takes the count of its neighbour.

Departures: (1) A two-sided range searches its upper end with the lower end at the minimum, then its
lower end; outliers go to the bins at both ends. (2) Levels are placed by value on the range, which
holds 0.0, not by bin number, so that bins need not start at 0. (3) A bin where P is positive and Q
is not counts with Q = 1e-9 instead of the smoothing of both. (4) At most 128 thresholds are tried.
(5) A symmetric range works on the histogram of magnitudes.
"""

import numpy as np
from numpy.typing import NDArray

from effc.passes.calibrate.histogram import Histogram

CANDIDATES = 128
LEAST_FRACTION = 1 / 16
EMPTY = 1e-9

Vector = NDArray[np.float64]


def least_divergent(
    histogram: Histogram, low: float, high: float, codes: int, symmetric: bool
) -> tuple[float, float]:
    """The range within `[low, high]` of least divergence.

    Args:
        histogram: Of the values.
        low: At most 0.
        high: At least 0, above `low`.
        codes: Number of levels.
        symmetric: Whether the result must be.
    """
    edges, counts = histogram.edges(), histogram.used().astype(float)
    for zero in np.flatnonzero(edges[:-2] == 0.0):
        counts[zero] = min(counts[zero], counts[zero + 1])
    centres = (edges[:-1] + edges[1:]) / 2
    fractions = np.linspace(LEAST_FRACTION, 1.0, CANDIDATES)
    if symmetric:
        centres, counts = _folded(centres, counts)
        ends = fractions * max(-low, high)
        end = _best([(0.0, end) for end in ends], centres, counts, codes // 2 + 1)[1]
        return -end, end
    if high > 0:
        high = _best([(low, end) for end in fractions * high], centres, counts, codes)[1]
    if low < 0:
        low = _best([(end, high) for end in fractions * low], centres, counts, codes)[0]
    return low, high


def _folded(centres: Vector, counts: Vector) -> tuple[Vector, Vector]:
    magnitudes, cells = np.unique(np.abs(centres), return_inverse=True)
    return magnitudes, np.asarray(np.bincount(cells, weights=counts), dtype=np.float64)


def _best(
    ranges: list[tuple[float, float]], centres: Vector, counts: Vector, levels: int
) -> tuple[float, float]:
    divergences = [_divergence(low, high, centres, counts, levels) for low, high in ranges]
    low, high = ranges[int(np.argmin(divergences))]
    return float(low), float(high)


def _divergence(low: float, high: float, centres: Vector, counts: Vector, levels: int) -> float:
    inside = np.flatnonzero((centres >= low) & (centres <= high))
    if not inside.size:
        return np.inf
    kept = counts[inside]
    clipped = kept.copy()
    clipped[0] += counts[: inside[0]].sum()
    clipped[-1] += counts[inside[-1] + 1 :].sum()
    level = np.clip((centres[inside] - low) / (high - low) * levels, 0, levels - 1).astype(int)
    filled = kept > 0
    mass = np.bincount(level, weights=kept, minlength=levels)
    share = mass / np.maximum(np.bincount(level, weights=filled, minlength=levels), 1)
    spread = np.where(filled, share[level], 0.0)
    if not spread.any():
        return np.inf
    p, q = clipped / clipped.sum(), spread / spread.sum()
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / np.maximum(q[positive], EMPTY))).sum())
