"""Two ternary planes per weight, fitted by alternating least squares."""

import torch
from torch import Tensor

from effc.ir.encoding import pack_codes
from effc.passes.bits.grouped import BLOCK_ELEMENTS, SCALE, Grouped, Rows, in_groups

ROUNDS = 30
STARTS = ((0.38, 0.13), (0.53, 0.18), (0.68, 0.23), (0.8, 0.2), (0.6, 0.35))
LEAST, MOST = 1e-8, 1.0
WORST = 1e4  # condition number from which the two scales cannot be told apart
BITS, MIDDLE, PAIRS = 2, 2, 9


def ternary(job: Rows) -> Grouped:
    """W ~ a1 T1 + a2 T2 with T in {-1, 0, 1} and scales per group of a row.

    PTQTP (Xiao et al., 2025, arXiv 2509.16989): alternate between the scales, a 2x2 ridge
    regression per group whose damping grows tenfold while its matrix is nearly singular, and the
    planes, for every element the best of the nine pairs; until no element changes. Departs from
    the paper in starting from several shares of the group's largest magnitude, of which the best
    result is kept, and in keeping scales in bfloat16, to which the planes are fitted last.
    """
    planes, scales = [], []
    for rows in job.blocks(BLOCK_ELEMENTS // PAIRS):
        values, exists = in_groups(rows, job.group)
        first, second, scale = _fit(values, exists)
        planes.append(torch.stack([first, second]).flatten(2)[..., : rows.shape[1]])
        scales.append(scale.permute(2, 0, 1))
    codes = torch.cat(planes, 1).to(torch.int16) + MIDDLE
    return Grouped(
        pack_codes(codes, BITS),
        torch.cat(scales, 1).to(SCALE),
        None,
        BITS,
        job.group,
        job.weight.shape[1],
    )


def _fit(values: Tensor, exists: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Planes like `values [rows, groups, group]`, and scales `[rows, groups, 2]`."""
    largest = values.abs().amax(-1, keepdim=True)
    best, least = torch.zeros((*values.shape[:2], 2)), torch.tensor(torch.inf)
    for shares in STARTS:
        scale = _alternated(values, largest * torch.tensor(shares))
        first, second = _planes(values, scale)
        restored = first * scale[..., :1] + second * scale[..., 1:]
        error = (restored - values).mul_(exists).square_().sum(-1, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return *_planes(values, best), best


def _alternated(values: Tensor, scale: Tensor) -> Tensor:
    """The scales at which neither step changes anything more, as they are stored."""
    first, second = _planes(values, scale)
    for _ in range(ROUNDS):
        before = first, second
        scale = _scales(values, first, second)
        first, second = _planes(values, scale)
        if torch.equal(before[0], first) and torch.equal(before[1], second):
            break
    return scale.to(SCALE).float()


def _scales(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The ridge regression of values on both planes."""
    square = torch.stack([first.square().sum(-1), second.square().sum(-1)])
    mixed = (first * second).sum(-1)
    wanted = torch.stack([(first * values).sum(-1), (second * values).sum(-1)])
    damping = torch.full_like(mixed, LEAST)
    while True:
        left, right = square[0] + damping, square[1] + damping
        determinant = left * right - mixed.square()
        norm = left.square() + right.square() + 2 * mixed.square()
        is_singular = (norm > WORST * determinant) & (damping < MOST)
        if not bool(is_singular.any()):
            break
        damping = torch.where(is_singular, (damping * 10).clamp(max=MOST), damping)
    solved = [right * wanted[0] - mixed * wanted[1], left * wanted[1] - mixed * wanted[0]]
    return torch.stack(solved, -1) / determinant[..., None]


def _planes(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """For every element the pair of least error."""
    sides = torch.tensor([0.0, 1.0, -1.0])
    pairs = torch.cartesian_prod(sides, sides)
    errors = (values[..., None] - (scale @ pairs.T)[..., None, :]).abs_()
    chosen = errors.argmin(-1)
    return pairs[:, 0][chosen], pairs[:, 1][chosen]
