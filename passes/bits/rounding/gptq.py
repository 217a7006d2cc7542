"""GPTQ: rounding column by column, each error made up for by the columns still to come.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ", 2022, arXiv 2210.17323. With H = X X^T of
the inputs, damped, and U the upper Cholesky factor of its inverse: column j is rounded to q, and
(w - q) / U_jj times row j of U is taken from the columns after it. Updates beyond a block of
columns are made once per block. Scales of a group are computed from the weights as they are when
its first column is reached; with `act_order`, columns go by falling diagonal of H, and scales are
those of the original weights, so that groups stay neighbouring columns.
"""

from dataclasses import dataclass

import numpy as np

from effc.ir.errors import DataError
from effc.passes.bits.rounding.grid import Grid, Matrix, symmetric

BLOCK = 128
DAMPING = 0.01
RETRIES = 6
GROWTH = 10.0


@dataclass(frozen=True)
class Gptq:
    """Options of the method.

    Attributes:
        bits: Width of a code.
        group: Columns that share a scale; 0 for all.
        act_order: Whether columns of large inputs go first.
        damping: Share of the mean diagonal of H added to it; ten times as much again where that
            leaves it singular.
        block: Columns between updates of all later columns; made a multiple of `group`.
    """

    bits: int
    group: int = 0
    act_order: bool = False
    damping: float = DAMPING
    block: int = BLOCK

    def rounded(self, weight: Matrix, moment: Matrix) -> Matrix:
        """Values of the grid for a weight.

        Args:
            weight: float64 [rows, columns], finite.
            moment: float64 [columns, columns], H.

        Raises:
            DataError: If H cannot be inverted with any damping.
        """
        work, result = weight.copy(), np.zeros_like(weight)
        is_dead = np.diag(moment) <= 0
        work[:, is_dead] = 0
        order = self._order(moment)
        upper = upper_inverse(moment[np.ix_(order, order)], self.damping)
        grid = symmetric(work, self.bits, self.group)
        columns, block = len(order), -(-self.block // grid.group) * grid.group
        for first in range(0, columns, block):
            last = min(first + block, columns)
            errors = np.zeros((len(work), last - first))
            for place in range(first, last):
                at = int(order[place])
                if not self.act_order and at % grid.group == 0:
                    grid = _rescaled(grid, work, at, self.bits)
                found = grid.column(work[:, at], at)
                error = (work[:, at] - found) / upper[place, place]
                result[:, at], errors[:, place - first] = found, error
                later = order[place + 1 : last]
                work[:, later] -= np.outer(error, upper[place, place + 1 : last])
            work[:, order[last:]] -= errors @ upper[first:last, last:]
        return result

    def _order(self, moment: Matrix) -> np.ndarray:
        if self.act_order:
            return np.argsort(-np.diag(moment), kind="stable")
        return np.arange(len(moment))


def upper_inverse(moment: Matrix, damping: float) -> Matrix:
    """The upper Cholesky factor of the inverse of H, damped until it has one.

    Raises:
        DataError: If it has none.
    """
    mean = float(np.diag(moment).mean()) or 1.0
    dead = np.where(np.diag(moment) <= 0, mean, 0.0)
    for attempt in range(RETRIES):
        added = damping * GROWTH**attempt * mean
        damped = moment + np.diag(dead) + added * np.eye(len(moment))
        try:
            inverse = np.linalg.inv(damped)
            return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
        except np.linalg.LinAlgError:
            continue
    raise DataError("the second moments of the calibration data cannot be inverted; give more data")


def _rescaled(grid: Grid, work: Matrix, at: int, bits: int) -> Grid:
    """The grid with the scales of the group that begins at a column taken from its weights now."""
    scale, number = grid.scale.copy(), at // grid.group
    own = symmetric(work[:, at : at + grid.group], bits, 0)
    scale[:, number] = own.scale[:, 0]
    return Grid(scale, grid.zero, grid.low, grid.high, grid.group)
