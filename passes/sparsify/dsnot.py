"""DSnoT: swaps of what went for what stayed, until the mean output of each row is right again.

Y. Zhang et al., "Dynamic Sparse no Training", 2023, arXiv 2310.08915. With c_j = w_j mean(x_j), a
row is off by the sum of c_j over what went. Of what went, the c_j of the error's sign that is
largest over Var(x_j)^p comes back; of what stayed, the weight of the least Wanda score whose c_j
has the other sign goes. Here a swap is made only if it makes the error smaller, which ends a row
where the paper looks for a change of sign; for N:M both lie in the same run.
"""

import numpy as np

from effc.passes.bits.rounding.grid import Matrix
from effc.passes.sparsify.job import TINY, Job, Sparse
from effc.passes.sparsify.patterns import Mask

CYCLES = 50
POWER = 1.0  # of the variance
ENOUGH = 1e-3  # of the mean magnitude of a row's output that may be off


def refined(job: Job, mask: Mask) -> Sparse:
    """The same weights under a better mask, with as many in every row (and run of N:M)."""
    reading, kept = job.read, mask.copy()
    share = job.weight * reading.mean
    gain = np.abs(share) / np.maximum(reading.variance, TINY) ** POWER
    worth = np.abs(job.weight) * np.sqrt(reading.square)
    error = np.where(kept, 0.0, share).sum(1)
    limit = ENOUGH * np.abs(share).sum(1) / share.shape[1]
    lines = np.flatnonzero(np.abs(error) > limit)
    for _ in range(CYCLES):
        if not len(lines):
            break
        grown, pruned, found = _swap(job, share[lines], gain[lines], worth[lines], kept[lines],
                                     error[lines])  # fmt: skip
        after = error[lines] - share[lines, grown] + share[lines, pruned]
        better = found & (np.abs(after) < np.abs(error[lines]))
        lines, grown, pruned = lines[better], grown[better], pruned[better]
        kept[lines, grown], kept[lines, pruned] = True, False
        error[lines] = after[better]
        lines = lines[np.abs(error[lines]) > limit[lines]]
    return Sparse(np.where(kept, job.weight, 0.0), kept)


def _swap(
    job: Job, share: Matrix, gain: Matrix, worth: Matrix, kept: Mask, error: Matrix
) -> tuple[np.ndarray, np.ndarray, Mask]:
    """Of each row, what comes back, what goes for it, and whether there are both."""
    sign, rows = np.sign(error)[:, None], np.arange(len(share))
    may_grow = ~kept & (np.sign(share) == sign)
    may_prune = kept & (np.sign(share) == -sign)
    if job.pattern.is_fixed:
        may_grow &= _in_runs(may_prune, job.pattern.within)
    grown = np.argmax(np.where(may_grow, gain, -np.inf), 1)
    if job.pattern.is_fixed:
        runs = np.arange(share.shape[1]) // job.pattern.within
        may_prune &= runs[None] == runs[grown][:, None]
    pruned = np.argmin(np.where(may_prune, worth, np.inf), 1)
    return grown, pruned, may_grow[rows, grown] & may_prune[rows, pruned]


def _in_runs(mask: Mask, within: int) -> Mask:
    """Where a run holds anything of the mask."""
    held = mask.reshape(len(mask), -1, within).any(2)
    return held.repeat(within, 1)
