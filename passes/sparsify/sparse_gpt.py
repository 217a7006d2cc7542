"""SparseGPT: zeros column by column, each made up for by the columns still to come.

E. Frantar, D. Alistarh, "SparseGPT", 2023, arXiv 2301.00774. With H = X X^T of the inputs, damped,
and U the upper Cholesky factor of its inverse (GPTQ's): a weight costs w^2 / U_jj^2; what goes is
chosen for a block of columns when it is reached, from the weights updated by then (for N:M, for
each run of M columns), over all rows together. A column's error w / U_jj times row j of U is taken
from the columns after it. The paper chooses for 128 columns at a time; narrow layers, whose columns
are alike, lose less with 32.
"""

import numpy as np

from effc.passes.bits.rounding.gptq import DAMPING, upper_inverse
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.sparsify.job import Job, Sparse
from effc.passes.sparsify.patterns import Mask

TOGETHER = 32  # columns whose zeros are chosen together


def sparse_gpt(job: Job) -> Sparse:
    """A weight with zeros, the others changed to make up for them.

    Raises:
        DataError: If H cannot be inverted with any damping.
    """
    work = job.weight.copy()
    work[:, np.diag(job.read.moment) <= 0] = 0
    upper = upper_inverse(job.read.moment, DAMPING)
    kept, columns = np.ones(work.shape, bool), work.shape[1]
    step = max(job.pattern.run, TOGETHER // job.pattern.run * job.pattern.run)
    for first in range(0, columns, step):
        here = slice(first, min(first + step, columns))
        errors = _eliminated(job, work[:, here], upper[here, here], kept[:, here])
        work[:, here.stop :] -= errors @ upper[here, here.stop :]
    return Sparse(work, kept)


def _eliminated(job: Job, work: Matrix, upper: Matrix, kept: Mask) -> Matrix:
    """Choose and zero in a block of columns, in place; what each column leaves to later ones."""
    pattern, worth = job.pattern, np.diag(upper) ** 2
    if not pattern.is_fixed:
        kept[:] = pattern.mask(work**2 / worth, job.ratio)
    errors = np.zeros(work.shape)
    for at in range(work.shape[1]):
        if pattern.is_fixed and at % pattern.within == 0:
            run = slice(at, at + pattern.within)
            kept[:, run] = pattern.mask(work[:, run] ** 2 / worth[run], job.ratio)
        errors[:, at] = np.where(kept[:, at], 0.0, work[:, at]) / upper[at, at]
        work[:, at] *= kept[:, at]
        work[:, at + 1 :] -= np.outer(errors[:, at], upper[at, at + 1 :])
    return errors
