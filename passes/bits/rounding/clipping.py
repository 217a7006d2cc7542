"""Ranges narrower than the weights: clipping a few so that all others are rounded more finely."""

from dataclasses import dataclass, replace

import numpy as np

from effc.passes.bits.rounding.grid import Grid, Matrix, split_groups, symmetric

SHARES = tuple(1.0 - 0.02 * step for step in range(36))


@dataclass(frozen=True)
class Clipped:
    """Round to nearest on the scale of least squared error of each group.

    Attributes:
        bits: Width of a code.
        group: Columns that share a scale; 0 for all.
    """

    bits: int
    group: int = 0

    def rounded(self, weight: Matrix) -> Matrix:
        """Values of the grid for a weight: float64 [rows, columns]."""
        return self.grid(weight).rounded(weight)

    def grid(self, weight: Matrix) -> Grid:
        """The whole range times the best of `SHARES`, group by group."""
        whole = symmetric(weight, self.bits, self.group)
        errors = []
        for share in SHARES:
            tried = replace(whole, scale=whole.scale * share)
            split, _ = split_groups((tried.rounded(weight) - weight) ** 2, self.group)
            errors.append(split.sum(2))
        best = np.array(SHARES)[np.argmin(errors, axis=0)]
        return replace(whole, scale=whole.scale * best)
