"""Histograms on a power-of-two grid: merging them is exact and does not depend on the order."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 2048
SMALLEST = 2.0**-149  # float32
GRID_BITS = 32  # the finest bin is this many powers of two below the largest magnitude

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins of width `2**exponent`.

    Bin `i` holds values in `[start + i, start + i + 1) * 2**exponent`. Edges are multiples of the
    width, so doubling the width joins whole bins and no count is ever split: a histogram built
    batch by batch equals the one built from all values at once. 0.0 is always an edge, where it is
    in the range.

    Attributes:
        counts: int64 [BINS], the first of them not 0.
        exponent: Power of two of the bin width.
        start: Grid index of the first bin.
    """

    counts: Counts
    exponent: int
    start: int

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray], low: float, high: float) -> "Histogram":
        """Count the elements of arrays.

        Args:
            blocks: Arrays of any shape and layout; small ones stay in the cache.
            low: The smallest element of all, finite.
            high: The largest element of all, finite.
        """
        exponent = _exponent(low, high)
        start = _cell(low, exponent)
        counts = np.zeros(BINS, dtype=np.int64)
        for block in blocks:
            cells = block.astype(np.float64)
            cells *= 2.0**-exponent
            np.floor(cells, out=cells)
            counts += np.bincount(cells.ravel("K").astype(np.int64) - start, minlength=BINS)
        return cls(counts, exponent, start)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    def used(self) -> Counts:
        """Counts of the bins up to the last that is not empty: int64 [used]."""
        return self.counts[: int(np.flatnonzero(self.counts)[-1]) + 1]

    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins that `used` counts: float64 [used + 1]."""
        cells = self.start + np.arange(len(self.used()) + 1, dtype=np.float64)
        return cells * np.float64(self.width)

    def merged(self, other: "Histogram") -> "Histogram":
        """The histogram of the values of both."""
        exponent = max(self.exponent, other.exponent)
        while True:
            ends = [end for part in (self, other) for end in part._ends(exponent)]
            if max(ends) - min(ends) < BINS:
                break
            exponent += 1
        counts = np.zeros(BINS, dtype=np.int64)
        for part in (self, other):
            part._pour(counts, exponent, min(ends))
        return Histogram(counts, exponent, min(ends))

    def _ends(self, exponent: int) -> tuple[int, int]:
        shift = exponent - self.exponent
        return self.start >> shift, (self.start + len(self.used()) - 1) >> shift

    def _pour(self, counts: Counts, exponent: int, start: int) -> None:
        filled = np.flatnonzero(self.counts)
        cells = ((self.start + filled) >> (exponent - self.exponent)) - start
        np.add.at(counts, cells, self.counts[filled])


def _exponent(low: float, high: float) -> int:
    """Smallest power of two at which the grid cells from `low` to `high` fit in the bins."""
    exponent = math.frexp(max(abs(low), abs(high), SMALLEST))[1] - GRID_BITS
    while _cell(high, exponent) - _cell(low, exponent) >= BINS:
        exponent += 1
    return exponent


def _cell(value: float, exponent: int) -> int:
    return math.floor(value * 2.0**-exponent)
