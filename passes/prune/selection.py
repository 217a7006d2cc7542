"""Which channels go: how many of each group, and that counts stay what kernels like."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.groups import Group

Scores = Sequence[NDArray[np.float64]]
Choose = Callable[[Sequence[Group], Scores, float, Sequence[int]], NDArray[np.int64]]
LEAST_SHARE = 0.1


def step_of(group: Group, lanes: int) -> int:
    """The number of which the kept count of a group is a multiple.

    One atom may stand for several positions, as a head for its width. Groups that would keep fewer
    than two steps take a smaller one.

    Args:
        group: Whose count.
        lanes: What the number of kept positions should be a multiple of.
    """
    step = lanes // math.gcd(lanes, group.width)
    while step > 1 and group.size < 2 * step:
        step //= 2
    return step


def kept_count(size: int, share: float, step: int) -> int:
    """The count nearest to a share of a size that is a multiple of a step, or the size itself."""
    wanted = size * share
    count = min(size, max(round(wanted / step) * step, min(step, size), 1))
    return size if size - wanted <= abs(count - wanted) else count


def uniform(
    groups: Sequence[Group], scores: Scores, ratio: float, steps: Sequence[int]
) -> NDArray[np.int64]:
    """The same share of each group."""
    return least(groups, scores, [1 - ratio] * len(groups), steps)


def global_ranking(
    groups: Sequence[Group], scores: Scores, ratio: float, steps: Sequence[int]
) -> NDArray[np.int64]:
    """The share of all channels that matters least, wherever they are.

    Scores are taken relative to their group's mean; a tenth of every group stays.
    """
    relative = [score / max(float(score.mean()), np.finfo(float).tiny) for score in scores]
    everything = np.concatenate(relative) if relative else np.zeros(0)
    threshold = np.quantile(everything, ratio) if len(everything) else 0.0
    shares = [max(float((score >= threshold).mean()), LEAST_SHARE) for score in relative]
    return least(groups, scores, shares, steps)


def least(
    groups: Sequence[Group], scores: Scores, shares: Sequence[float], steps: Sequence[int]
) -> NDArray[np.int64]:
    """The atoms of least score beyond what each group keeps."""
    parts = [np.zeros(0, np.int64)]
    for group, score, share, step in zip(groups, scores, shares, steps, strict=True):
        count = group.size - kept_count(group.size, share, step)
        parts.append(group.atoms[np.argsort(score, kind="stable")[:count]])
    return np.concatenate(parts)


SPREADS: dict[str, Choose] = {"uniform": uniform, "global": global_ranking}
