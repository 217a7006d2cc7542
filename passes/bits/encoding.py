"""Scale and zero point of a static uint8 activation, and the error they promise."""

import math
from dataclasses import dataclass

import numpy as np

from effc.passes.bits.placement import Group
from effc.passes.calibrate.decibel import sqnr_db
from effc.passes.calibrate.error import squared_error
from effc.passes.calibrate.observers import Observer
from effc.passes.calibrate.statistics import Statistics
from effc.passes.calibrate.value import ValueStatistics

CODES = 256
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Encoding:
    """How values become uint8 codes: `round(x / scale) + zero_point`.

    Attributes:
        scale: A float32 number.
        zero_point: The code of 0.0.
        sqnr_db: Predicted signal to quantization-noise ratio of the typical slice (token, image)
            of the calibration data; few large ones do not hide that the others drown.
        noise: Mean square of the error.
    """

    scale: float
    zero_point: int
    sqnr_db: float
    noise: float


def encode(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the range `[low, high]`, which holds 0, in 256 codes.

    `scale = (high - low) / 255` in float32, 1 where that is 0 or subnormal;
    `zero_point = round_half_even(-low / scale)`.
    """
    scale = np.float32((high - low) / (CODES - 1))
    if scale < TINY:
        scale = np.float32(1.0)
    return float(scale), int(np.clip(np.round(-low / float(scale)), 0, CODES - 1))


def encoding_of(group: Group, statistics: Statistics, observe: Observer) -> Encoding:
    """The encoding for a group of values, from the statistics of those that layers read."""
    parts = [statistics[node.name] for node in group.measured]
    merged = parts[0].histogram
    for part in parts[1:]:
        merged = merged.merged(part.histogram)
    minimum, maximum = min(p.minimum for p in parts), max(p.maximum for p in parts)
    scale, zero_point = encode(*observe(merged, minimum, maximum, CODES, False))
    low, high = -zero_point * scale, (CODES - 1 - zero_point) * scale
    slices = sum(part.slices for part in parts)
    signal = math.exp(sum(part.slice_log_energy for part in parts) / slices) if slices else 0.0
    noise = float(squared_error(merged, low, high, CODES)[0])
    return Encoding(scale, zero_point, sqnr_db(signal, noise), noise)


def dynamic_db(statistics: ValueStatistics) -> float:
    """Predicted signal-to-noise ratio of one scale per slice, for the typical slice.

    The noise of a slice is its step squared over 12, the variance of an even distribution.
    """
    if not statistics.slices:
        return math.inf
    log_ratio = (statistics.slice_log_energy - statistics.slice_log_range) / statistics.slices
    return 10 * (log_ratio / math.log(10) + math.log10(12 * (CODES - 1) ** 2))
