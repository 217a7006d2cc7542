"""Every way to choose the zeros of a weight, by name."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from effc.passes.bits.rounding.grid import Matrix
from effc.passes.sparsify.job import Job, Sparse
from effc.passes.sparsify.obert import obert
from effc.passes.sparsify.pst import pst
from effc.passes.sparsify.sparse_gpt import sparse_gpt

Method = Literal["magnitude", "wanda", "sparsegpt", "obert", "pst", "random"]
METHODS: tuple[str, ...] = get_args(Method)
WITHOUT_DATA = ("magnitude", "random")


def wanda_scores(job: Job) -> Matrix:
    """Squares of |w| times the norm of what it multiplies: float64 [rows, columns]."""
    return np.asarray(job.weight**2 * job.read.square)


def magnitude(job: Job) -> Sparse:
    """The smallest weights go, of all rows together."""
    return _masked(job, job.weight**2)


def wanda(job: Job) -> Sparse:
    """The smallest |w| times input norm of every row go (M. Sun et al., 2023, arXiv 2306.11695).

    Blocks, which lie across rows, are compared with each other.
    """
    return _masked(job, wanda_scores(job), per_row=True)


def random(job: Job) -> Sparse:
    """The control."""
    return _masked(job, job.rng.random(job.weight.shape))


def _masked(job: Job, scores: Matrix, per_row: bool = False) -> Sparse:
    mask = job.pattern.mask(scores, job.ratio, per_row)
    return Sparse(np.where(mask, job.weight, 0.0), mask)


FUNCTIONS: dict[str, Callable[[Job], Sparse]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparse_gpt,
    "obert": obert,
    "pst": pst,
    "random": random,
}
