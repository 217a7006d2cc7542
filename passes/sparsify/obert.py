"""oBERT: zeros by the inverse of a block-diagonal Fisher matrix.

E. Kurtic et al., "The Optimal BERT Surgeon", 2022, arXiv 2203.07259. F = damping + mean of g g^T
within runs of neighbouring columns of a row. A weight costs w^2 / (2 [F^-1]_ii), a block of columns
w_B^T ([F^-1]_BB)^-1 w_B / 2; rows of a block add up. What stays changes by the minimum of the
quadratic form, all that goes taken together. Gradients are those of `Divergence.score`; the paper
has those of a task's loss, and prunes gradually with training between, which is `recover`'s part.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from effc.ir.program import Program, attribute
from effc.passes.base import PassContext
from effc.passes.bits.metrics.running import Exchanged
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.sparsify.job import TINY, Job, Sparse
from effc.passes.sparsify.patterns import Mask

DRAWS = 64
SIZE = 32  # columns of a Fisher block, about
DAMPING = 1e-2  # share of the mean diagonal
FISHER_NBYTES = 2 << 30
FLOAT_NBYTES = 4
Fisher = NDArray[np.float32]


def size_of(run: int) -> int:
    """Columns of a Fisher block where `run` columns are looked at together."""
    return max(run, SIZE // run * run)


def fisher_nbytes(rows: int, columns: int, run: int) -> int:
    """Bytes of the Fisher blocks of a weight."""
    size = size_of(run)
    return rows * -(-columns // size) * size**2 * FLOAT_NBYTES


def fisher_of(program: Program, ctx: PassContext, runs: dict[str, int]) -> dict[str, Fisher]:
    """Sums of g g^T over `DRAWS` gradients g, by path of the weight.

    Args:
        program: Whose method `forward` is differentiated.
        ctx: Calibration data and seed.
        runs: By path of a weight, how many columns are looked at together.

    Raises:
        DataError: If there is no calibration data.
    """
    study = Study(program, (), ctx)
    draw = study.generator("obert")
    paths = list(runs)
    leaves = [attribute(program.forward, path).detach().clone() for path in paths]
    for leaf in leaves:
        leaf.requires_grad_()
    nodes: dict[str, list[fx.Node]] = {}
    for node in program.forward.graph.find_nodes(op="get_attr"):
        nodes.setdefault(str(node.target), []).append(node)
    known = {node: leaf for path, leaf in zip(paths, leaves, strict=True) for node in nodes[path]}
    found: dict[str, Fisher] = {}
    each = -(-DRAWS // len(study.sample))
    for batch in study.sample:
        with torch.enable_grad():
            outputs = Exchanged(program.forward, known).outputs(batch.inputs)
            for left in range(each - 1, -1, -1):
                score = study.divergence.score(batch.outputs, outputs, draw)
                made = torch.autograd.grad(score, leaves, retain_graph=left > 0, allow_unused=True)
                for path, leaf, slope in zip(paths, leaves, made, strict=True):
                    slope = torch.zeros_like(leaf) if slope is None else slope
                    blocks = _split(slope.flatten(1).numpy(), size_of(runs[path]))
                    outer = blocks[..., :, None] * blocks[..., None, :]
                    if path in found:
                        found[path] += outer
                    else:
                        found[path] = outer
    return found


def obert(job: Job) -> Sparse:
    """A weight with zeros, the others changed to make up for them."""
    assert job.fisher is not None, "the pass finds it first"
    size = job.fisher.shape[-1]
    damped = _damped(job.fisher)
    inverse = np.asarray(np.linalg.inv(damped))
    weight = _split(job.weight, size)
    scores = _scores(weight, inverse, job.pattern.columns)
    scores = scores.reshape(len(scores), -1)[:, : job.weight.shape[1]]
    kept = job.pattern.mask(scores, job.ratio)
    changed = _changed(weight, damped, _split(kept.astype(np.float64), size) > 0)
    changed = changed.reshape(len(changed), -1)[:, : job.weight.shape[1]]
    return Sparse(np.where(kept, changed, 0.0), kept)


def _split(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """`[rows, blocks, size]`, zero where columns are missing."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)))
    return padded.reshape(len(rows), -1, size)


def _damped(fisher: Fisher) -> Matrix:
    diagonal = np.diagonal(fisher, axis1=2, axis2=3).astype(np.float64)
    added = DAMPING * max(float(diagonal.mean()), TINY)
    return fisher.astype(np.float64) + added * np.eye(fisher.shape[-1])


def _scores(weight: Matrix, inverse: Matrix, columns: int) -> Matrix:
    """What it costs when a weight goes, or its block's share: `[rows, blocks, size]`."""
    if columns == 1:
        return np.asarray(weight**2 / (2 * np.diagonal(inverse, axis1=2, axis2=3)))
    found = np.zeros(weight.shape)
    for first in range(0, weight.shape[2], columns):
        here = slice(first, first + columns)
        part = weight[:, :, here]
        solved = np.linalg.solve(inverse[:, :, here, here], part[..., None])[..., 0]
        found[:, :, here] = (part * solved).sum(2, keepdims=True) / (2 * columns)
    return found


def _changed(weight: Matrix, damped: Matrix, kept: Mask) -> Matrix:
    """Argmin of (w' - w)^T F (w' - w) with zeros where nothing is kept."""
    gone = np.where(kept, 0.0, weight)
    both = kept[..., :, None] & kept[..., None, :]
    system = np.where(both, damped, 0.0) + np.eye(weight.shape[2]) * ~kept[..., None]
    owed = np.where(kept, (damped @ gone[..., None])[..., 0], 0.0)
    return np.asarray(weight + np.linalg.solve(system, owed[..., None])[..., 0])
