"""PST: importance and change of a weight learned as small matrices.

Y. Li et al., "Parameter-Efficient Sparsity for Large Language Models Fine-Tuning", 2022, arXiv
2205.11005: S = |W| + A B + R 1^T + 1 C^T, of which the largest stay, and W + U V for the weight.
The paper trains them with a task's loss; here it is the error of the layer's own output, so that it
needs no labels and a few seconds, and `recover` goes on from there. The mask passes gradients
straight through; the best step is kept, and the first is that of the magnitude alone.
"""

import numpy as np
import torch
from torch import Tensor

from effc.passes.sparsify.job import TINY, Job, Sparse

STEPS = 60
RANK = 8
RATE = 2e-2


@torch.enable_grad()
def pst(job: Job) -> Sparse:
    """A weight with zeros, the others changed by a product of thin matrices."""
    weight = torch.from_numpy(job.weight).float()
    moment = torch.from_numpy(job.read.moment / max(float(np.trace(job.read.moment)), TINY)).float()
    size = weight.abs().mean().clamp(min=TINY)
    parts = _parts(job, weight)
    optimizer = torch.optim.Adam(parts, RATE)
    energy = ((weight @ moment) * weight).sum().clamp(min=TINY)
    best = float("inf")
    found = Sparse(job.weight, np.ones(job.weight.shape, bool))
    for _ in range(STEPS):
        a, b, row, column, u, v = parts
        scores = weight.abs() / size + a @ b + row + column
        kept = job.pattern.mask(scores.detach().double().numpy(), job.ratio)
        hard = torch.from_numpy(kept).float()
        dense = weight + size * (u @ v)
        made = (hard + scores - scores.detach()) * dense
        change = made - weight
        loss = ((change @ moment) * change).sum() / energy
        if (now := float(loss.detach())) < best:
            best = now
            values = np.asarray(dense.detach().double())
            found = Sparse(np.where(kept, values, 0.0), kept)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


def _parts(job: Job, weight: Tensor) -> list[Tensor]:
    """A, B, R, C, U, V: the products start at zero."""
    rows, columns = weight.shape
    rank = min(RANK, rows, columns)
    drawn = [job.rng.standard_normal((rank, columns), np.float32) / rank**0.5 for _ in range(2)]
    shapes = [(rows, 1), (1, columns)]
    zeros = [torch.zeros(rows, rank) for _ in range(2)]
    row, column = (torch.zeros(shape) for shape in shapes)
    right = [torch.from_numpy(one) for one in drawn]
    found = [zeros[0], right[0], row, column, zeros[1], right[1]]
    return [one.requires_grad_() for one in found]
