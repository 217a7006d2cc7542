"""The best factors of a weight for what it reads, in closed form.

With H = X X^T of the inputs and a root H = R R^T, |(W - W') X| = |(W - W') R|: the truncated
singular value decomposition of W R, times R^-1, has the least error of its rank (as in SVD-LLM, X.
Wang et al., 2024, arXiv 2403.07378). Of block-shuffle, two block-diagonal matrices with a shuffle
between them (T. Dao et al., "Monarch", 2022, arXiv 2204.00595; one of the forms of X. Wei et al.,
2024, arXiv 2406.16450), every pair of an output and an input block is such a product of its own; H
counts within input blocks, between which the closed form cannot look.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.passes.bits.rounding.grid import Matrix

Vector = NDArray[np.float64]
FLOOR = 1e-8  # of the largest second moment; directions below are not read


@dataclass(frozen=True, eq=False)
class Factors:
    """A weight [out, in] as a product.

    Attributes:
        first: What is applied first: [rank, in], or [blocks, rows, in / blocks].
        second: What is applied to that: [out, rank], or [blocks, out / blocks, rows].
        dense: The product, [out, in].
    """

    first: Matrix
    second: Matrix
    dense: Matrix


def root(moment: Matrix) -> tuple[Matrix, Matrix]:
    """R with R R^T = H, and its inverse, both float64 [features, features]."""
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    largest = float(values[-1]) if values[-1] > 0 else 1.0
    scale = np.sqrt(np.maximum(values, FLOOR * largest))
    return np.asarray(vectors * scale), np.asarray((vectors / scale).T)


def energies(weight: Matrix, moment: Matrix | None) -> Vector:
    """Squares of the singular values of W R, falling: what each rank adds to the output."""
    whitened = weight if moment is None else weight @ root(moment)[0]
    return np.asarray(np.linalg.svd(whitened, compute_uv=False) ** 2)


def low_rank(weight: Matrix, moment: Matrix | None, rank: int) -> Factors:
    """Two thin matrices.

    Args:
        weight: float64 [out, in].
        moment: float64 [in, in] of what it reads; None takes inputs for white.
        rank: Columns of the one and rows of the other.
    """
    first, second = _factors(weight, moment, rank)
    return Factors(first, second, second @ first)


def block_shuffle(weight: Matrix, moment: Matrix | None, blocks: int, rank: int) -> Factors:
    """Two block-diagonal matrices; the rows of the first are dealt out to the blocks of the second.

    Args:
        weight: float64 [out, in], both multiples of `blocks`.
        moment: float64 [in, in] of what it reads; None takes inputs for white.
        blocks: Of either matrix.
        rank: Of what an output block has from an input block.
    """
    out, columns = weight.shape[0] // blocks, weight.shape[1] // blocks
    first = np.zeros((blocks, blocks, rank, columns))  # input block, output block
    second = np.zeros((blocks, out, blocks, rank))  # output block, ..., input block
    dense = np.zeros(weight.shape)
    for source in range(blocks):
        reads = slice(source * columns, (source + 1) * columns)
        own = None if moment is None else moment[reads, reads]
        for target in range(blocks):
            writes = slice(target * out, (target + 1) * out)
            right, left = _factors(weight[writes, reads], own, rank)
            first[source, target], second[target, :, source] = right, left
            dense[writes, reads] = left @ right
    shapes = (blocks, blocks * rank, columns), (blocks, out, blocks * rank)
    return Factors(first.reshape(shapes[0]), second.reshape(shapes[1]), dense)


def _factors(weight: Matrix, moment: Matrix | None, rank: int) -> tuple[Matrix, Matrix]:
    """[rank, in] and [out, rank] of equal size."""
    whitening, back = (None, None) if moment is None else root(moment)
    left, values, right = np.linalg.svd(
        weight if whitening is None else weight @ whitening, full_matrices=False
    )
    scale = np.sqrt(values[:rank])
    first = scale[:, None] * right[:rank]
    return (first if back is None else first @ back), left[:, :rank] * scale
