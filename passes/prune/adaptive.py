"""Ratios by how much the block around a group changes what it reads (Adapt-Pruner)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.groups import Group
from effc.ir.errors import DataError
from effc.passes.bits.metrics.study import Study
from effc.passes.prune.blocks import turn
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.prune.residuals import Block, blocks_of
from effc.passes.prune.selection import Scores, least

AMPLITUDE, MOST = 0.6, 0.99


def tilts(study: Scoring, groups: Sequence[Group]) -> list[float]:
    """How much more than the mean the block of each group matters, from -1 to 1; 0 for no block.

    Adapt-Pruner (Pan et al., 2025, arXiv 2502.03460): a block's importance is one minus the cosine
    of what it reads and computes, centred and scaled by the largest deviation.

    Raises:
        DataError: If there is no calibration data.
    """
    if study.ctx.calibration is None:
        raise DataError("spread=adaptive needs calibration data")
    blocks = blocks_of(study.program, is_whole=True)
    sample = Study(study.program, (), study.ctx)
    found = np.array([turn(sample, block) for block in blocks])
    centred = found - found.mean() if len(found) else found
    largest = float(np.abs(centred).max(initial=0.0))
    scaled = centred / largest if largest > 0 else centred
    known = dict(zip((block.name for block in blocks), scaled.tolist(), strict=True))
    return [known.get(_around(group, blocks), 0.0) for group in groups]


def adaptive(
    groups: Sequence[Group],
    scores: Scores,
    ratio: float,
    steps: Sequence[int],
    tilted: Sequence[float],
) -> NDArray[np.int64]:
    """Of every group `ratio (1 - 0.6 tilt)`, with the authors' amplitude for a step of 5%.

    Args:
        groups: Which.
        scores: Per group.
        ratio: Of a group in a block of mean importance.
        steps: Per group, the number of which its count is a multiple.
        tilted: From `tilts`.
    """
    shares = [1 - min(ratio * (1 - AMPLITUDE * tilt), MOST) for tilt in tilted]
    return least(groups, scores, shares, steps)


def _around(group: Group, blocks: Sequence[Block]) -> str:
    """The innermost block a group's layer is in; empty for none."""
    names = [block.name for block in blocks if group.name.startswith(f"{block.name}.")]
    return max(names, key=len, default="")
