"""How the zeros are spread over layers."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from effc.passes.bits.rounding.grid import Matrix
from effc.passes.sparsify.job import TINY, Job, Vector
from effc.passes.sparsify.methods import wanda_scores

Spread = Literal["uniform", "global", "lamp", "owl"]
SPREADS: tuple[str, ...] = get_args(Spread)
OUTLIER = 5.0  # times the mean score
REACH = 0.08  # half of how far the ratios of two layers may be apart


def ratios(jobs: Sequence[Job], spread: Spread, method: str) -> list[float]:
    """The share of each layer that goes, together `ratio` of all weights.

    - `global`: the least scores of all layers: squared magnitudes for `magnitude`, else Wanda's.
    - `lamp`: squared magnitudes over the sum of those at least as large in the layer (J. Lee et
      al., 2021, arXiv 2010.07611).
    - `owl`: layers with many outliers, Wanda scores over five times their mean, lose up to 0.16
      less than others (L. Yin et al., 2023, arXiv 2310.05175, twice their lambda).

    Args:
        jobs: All layers, with the ratio of the whole and, but for magnitudes, with readings.
        spread: How.
        method: Of sparsification.
    """
    if spread == "uniform" or not jobs:
        return [job.ratio for job in jobs]
    if spread == "owl":
        return _around(jobs, np.array([_outliers(job) for job in jobs]))
    if spread == "lamp":
        return _threshold(jobs, [_lamp(job.pattern.units(job.weight**2)) for job in jobs])
    scores = [job.weight**2 if method == "magnitude" else wanda_scores(job) for job in jobs]
    return _threshold(
        jobs, [job.pattern.units(one).ravel() for job, one in zip(jobs, scores, strict=True)]
    )


def needs_data(spread: Spread, method: str) -> bool:
    """Whether readings of all layers are looked at."""
    return spread == "owl" or (spread == "global" and method != "magnitude")


def _lamp(units: Matrix) -> Vector:
    flat = units.ravel()
    order = np.argsort(flat, kind="stable")
    left = np.cumsum(flat[order][::-1])[::-1]
    found = np.empty(len(flat))
    found[order] = flat[order] / np.maximum(left, TINY)
    return found


def _outliers(job: Job) -> float:
    """Share of a layer's scores that are outliers."""
    scores = np.sqrt(wanda_scores(job))
    return float((scores > OUTLIER * scores.mean()).mean())


def _around(jobs: Sequence[Job], outliers: Vector) -> list[float]:
    """The whole ratio, less where there are outliers; the mean over weights is as wanted."""
    sizes = np.array([job.weight.size for job in jobs], float)
    wide = float(outliers.max() - outliers.min())
    less = (outliers - outliers.min()) / (wide or 1.0) * 2 * REACH
    wanted = np.array([job.ratio for job in jobs])
    found = wanted - less + (less @ sizes) / sizes.sum()
    return [float(one) for one in np.clip(found, 0.0, 1.0)]


def _threshold(jobs: Sequence[Job], scores: list[Vector]) -> list[float]:
    """Shares below one threshold for all units."""
    everything = np.concatenate(scores)
    wanted = sum(job.ratio * len(one) for job, one in zip(jobs, scores, strict=True))
    owner = np.repeat(np.arange(len(scores)), [len(one) for one in scores])
    gone = owner[np.argsort(everything, kind="stable")[: int(wanted)]]
    counts = np.bincount(gone, minlength=len(scores))
    return [float(count / len(one)) for count, one in zip(counts, scores, strict=True)]
