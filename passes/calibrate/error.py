"""Expected squared error of uniform quantization, read off a histogram."""

import numpy as np
from numpy.typing import NDArray

from effc.passes.calibrate.histogram import Histogram

Vector = NDArray[np.float64]


def squared_error(
    histogram: Histogram, low: Vector | float, high: Vector | float, codes: int
) -> Vector:
    """Mean squared error of rounding to `codes` levels from `low` to `high`, clipping outside.

    Values are taken as spread evenly over their bin, over which the error is integrated exactly.

    Args:
        histogram: Of the values.
        low: First level, at most 0; [candidates] or a number.
        high: Last level, at least 0 and above `low`.
        codes: Number of levels.

    Returns:
        float64 [candidates].
    """
    first, last = np.atleast_1d(low)[:, None], np.atleast_1d(high)[:, None]
    edges, counts = histogram.edges(), histogram.used()
    integral = _integral(edges[None, :], first, last, codes)
    per_bin = np.diff(integral, axis=1) / histogram.width
    error: Vector = per_bin @ counts / histogram.total
    return np.maximum(error, 0.0)


def _integral(x: Vector, low: Vector, high: Vector, codes: int) -> Vector:
    """Integral from `low` to `x` of the squared distance to the nearest level.

    Between levels the distance is a sawtooth u - round(u), in steps, whose square integrates to
    round(u)/12 + (u - round(u))^3/3; outside the range it is the distance to the end.
    """
    step = (high - low) / (codes - 1)
    inside = np.clip(x, low, high)
    position = (inside - low) / step
    nearest = np.round(position)
    result: Vector = step**3 * (nearest / 12 + (position - nearest) ** 3 / 3)
    return result + (x - inside) ** 3 / 3


def levels(
    low: Vector | float, high: Vector | float, codes: int, symmetric: bool
) -> tuple[Vector, Vector]:
    """Move a range so that 0.0 is one of its levels, as quantization does.

    Args:
        low: At most 0; [candidates] or a number.
        high: At least 0, above `low`.
        codes: Number of levels.
        symmetric: Whether 0.0 is the middle level (`codes` is odd); else the step is kept and the
            range shifted by less than a step.
    """
    first, last = np.atleast_1d(low).astype(float), np.atleast_1d(high).astype(float)
    if symmetric:
        end = np.maximum(-first, last)
        return -end, end
    step = (last - first) / (codes - 1)
    zero_point = np.clip(np.round(-first / step), 0, codes - 1)
    return -zero_point * step, (codes - 1 - zero_point) * step
