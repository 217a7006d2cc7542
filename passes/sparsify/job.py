"""What methods of sparsification look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.walk import Inputs
from effc.passes.calibrate.value import ValueStatistics
from effc.passes.calibrate.windows import Window
from effc.passes.sparsify.patterns import Mask, Pattern

Vector = NDArray[np.float64]
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Reading:
    """What a weight multiplies, over calibration data.

    Attributes:
        moment: X^T X, float64 [columns, columns].
        mean: float64 [columns].
        count: Rows of X.
    """

    moment: Matrix
    mean: Vector
    count: int

    @classmethod
    def of_inputs(cls, inputs: Inputs) -> "Reading":
        """What a walk has seen."""
        count = sum(batch.numel() // batch.shape[-1] for batch in inputs.now)
        return cls(inputs.moment, np.asarray(inputs.means()[1]).ravel(), count)

    @classmethod
    def of_statistics(cls, known: ValueStatistics, window: Window | None) -> "Reading | None":
        """What statistics hold; None where second moments did not fit in memory.

        Means of a window's elements are those of its channels, and there is a window at every
        place the stride reaches: borders are left out.
        """
        if window is None:
            moment = known.moment
            return None if moment is None else cls(moment, known.channel_mean, known.rows)
        found = known.windows.get(str(window))
        if found is None:
            return None
        taps = window.kernel[0] * window.kernel[1]
        count = max(1, known.rows // (window.stride[0] * window.stride[1]))
        return cls(found[0], np.repeat(known.channel_mean, taps), count)

    @property
    def square(self) -> Vector:
        """Mean squares: float64 [columns]."""
        return np.diag(self.moment) / self.count

    @property
    def variance(self) -> Vector:
        """float64 [columns]."""
        return np.maximum(self.square - self.mean**2, 0.0)


@dataclass(frozen=True, eq=False)
class Job:
    """One weight to sparsify.

    Attributes:
        weight: float64 [rows, columns], finite.
        pattern: Where zeros may be.
        ratio: The share that goes.
        reading: What it multiplies, where there is data.
        fisher: For oBERT: Fisher matrices of neighbouring columns, float32 [rows, blocks, size,
            size].
        rng: Random numbers.
    """

    weight: Matrix
    pattern: Pattern
    ratio: float
    reading: Reading | None
    fisher: NDArray[np.float32] | None
    rng: np.random.Generator

    @property
    def read(self) -> Reading:
        """The reading of a method that needs data."""
        assert self.reading is not None, "the pass asks for data first"
        return self.reading


@dataclass(frozen=True, eq=False)
class Sparse:
    """What a method made: a weight with zeros, and what stays."""

    weight: Matrix
    mask: Mask


def lost(before: Matrix, after: Matrix, reading: Reading | None) -> float:
    """Squared error of a layer's outputs over their energy; of the weight without data."""
    change = after - before
    if reading is None:
        return float((change**2).sum() / max(float((before**2).sum()), TINY))
    energy = float(((before @ reading.moment) * before).sum())
    return max(float(((change @ reading.moment) * change).sum()), 0.0) / max(energy, TINY)
