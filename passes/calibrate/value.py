"""What is known about one value of a program after running it over data."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from effc.passes.calibrate.histogram import Histogram
from effc.passes.calibrate.windows import Window

BLOCK_ELEMENTS = 1 << 16
WINDOW = "window "

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """How a value is read.

    Attributes:
        is_map: Whether its channels are dimension 1, as in feature maps `[batch, channels, height,
            width]`, instead of the last, as in inputs of a linear.
        has_moment: Whether the second moments of its channels are kept.
        windows: Of the convolutions for which the second moments of windows are kept.
    """

    is_map: bool
    has_moment: bool = False
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, eq=False)
class ValueStatistics:
    """Statistics of one value; those of two batches merge into those of both.

    A *slice* is what one dynamic scale would cover: an image of a feature map, else a row of the
    last dimension.

    Attributes:
        minimum: Smallest element.
        maximum: Largest element.
        histogram: Counts of all elements.
        rows: Number of vectors over the channels.
        slices: Number of slices that are not all 0.
        slice_log_energy: Sum over those of the logarithm of their mean square.
        slice_log_range: Sum over those of the logarithm of their squared range (widened to hold 0).
        channel_max: float32 [channels], largest magnitude.
        channel_sum: float64 [channels].
        channel_square: float64 [channels], sum of squares.
        moment: float64 [channels, channels], the sum of outer products X^T X, where it was asked
            for. Each batch's product is float32, the sum over batches float64.
        windows: The same of the windows of convolutions, by the window's text: float64 [groups,
            terms, terms].
    """

    minimum: float
    maximum: float
    histogram: Histogram
    rows: int
    slices: int
    slice_log_energy: float
    slice_log_range: float
    channel_max: NDArray[np.float32]
    channel_sum: Vector
    channel_square: Vector
    moment: NDArray[np.float64] | None = None
    windows: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, value: NDArray[np.float32], layout: Layout) -> "ValueStatistics":
        """Statistics of one array: finite, at least one element, at least one dimension."""
        low, high = float(value.min()), float(value.max())
        channels = value.shape[1] if layout.is_map else value.shape[-1]
        total, square, largest = np.zeros(channels), np.zeros(channels), np.zeros(channels, "f4")
        slices, log_energy, log_range = 0, 0.0, 0.0
        for block in _blocks(value, layout):
            total += block.sum(0, dtype=np.float64)
            square += np.einsum("ij,ij->j", block, block, dtype=np.float64)
            np.maximum(largest, np.abs(block).max(0), out=largest)
            energies, ranges = _slices(block, None if layout.is_map else 1)
            slices += energies.size
            log_energy += float(np.log(energies).sum())
            log_range += float(np.log(ranges).sum())
        return cls(
            low,
            high,
            Histogram.of(_blocks(value, layout), low, high),
            value.size // channels,
            slices,
            log_energy,
            log_range,
            largest,
            total,
            square,
            _moment(value) if layout.has_moment else None,
            {str(window): window.moment(value) for window in layout.windows},
        )

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.rows * len(self.channel_sum)

    @property
    def channel_mean(self) -> Vector:
        """Mean of each channel: float64 [channels]."""
        return self.channel_sum / self.rows

    @property
    def channel_mean_square(self) -> Vector:
        """Mean of the squares of each channel: float64 [channels]."""
        return self.channel_square / self.rows

    def merged(self, other: "ValueStatistics") -> "ValueStatistics":
        """The statistics over the data of both."""
        has_moment = self.moment is not None and other.moment is not None
        return ValueStatistics(
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.histogram.merged(other.histogram),
            self.rows + other.rows,
            self.slices + other.slices,
            self.slice_log_energy + other.slice_log_energy,
            self.slice_log_range + other.slice_log_range,
            np.maximum(self.channel_max, other.channel_max),
            self.channel_sum + other.channel_sum,
            self.channel_square + other.channel_square,
            self.moment + other.moment if has_moment else None,  # type: ignore[operator]
            {name: self.windows[name] + other.windows[name] for name in self.windows},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as named arrays; `from_arrays` reads it back."""
        histogram = self.histogram
        found: dict[str, np.ndarray] = {
            "counts": histogram.counts,
            "whole": np.array([histogram.exponent, histogram.start, self.rows, self.slices]),
            "ends": np.array([self.minimum, self.maximum]),
            "logs": np.array([self.slice_log_energy, self.slice_log_range]),
            "channel_max": self.channel_max,
            "channel_sum": self.channel_sum,
            "channel_square": self.channel_square,
        }
        found |= {f"{WINDOW}{name}": moment for name, moment in self.windows.items()}
        return found if self.moment is None else found | {"moment": self.moment}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ValueStatistics":
        """Read back what `arrays` gave."""
        exponent, start, rows, slices = arrays["whole"].tolist()
        minimum, maximum = arrays["ends"].tolist()
        energy, reach = arrays["logs"].tolist()
        return cls(
            minimum,
            maximum,
            Histogram(arrays["counts"], exponent, start),
            rows,
            slices,
            energy,
            reach,
            arrays["channel_max"],
            arrays["channel_sum"],
            arrays["channel_square"],
            arrays.get("moment"),
            {
                name.removeprefix(WINDOW): array
                for name, array in arrays.items()
                if name.startswith(WINDOW)
            },
        )


def _blocks(value: np.ndarray, layout: Layout) -> Iterator[np.ndarray]:
    """Views [vectors, channels] that together hold every element; an image is never split."""
    if layout.is_map:
        for image in value.reshape(*value.shape[:2], -1):
            yield image.T
        return
    flat = value.reshape(-1, value.shape[-1])
    step = max(1, BLOCK_ELEMENTS // flat.shape[1])
    for first in range(0, len(flat), step):
        yield flat[first : first + step]


def _slices(block: np.ndarray, axis: int | None) -> tuple[Vector, Vector]:
    """Mean square and squared range of every slice that is not all 0: float64 [slices]."""
    low = np.minimum(block.min(axis), 0).astype(np.float64)
    high = np.maximum(block.max(axis), 0).astype(np.float64)
    energies = np.atleast_1d(np.square(block, dtype=np.float64).mean(axis))
    ranges = np.atleast_1d((high - low) ** 2)
    return energies[ranges > 0], ranges[ranges > 0]


def _moment(value: np.ndarray) -> NDArray[np.float64]:
    flat = value.reshape(-1, value.shape[-1])
    return np.asarray(flat.T @ flat, dtype=np.float64)
