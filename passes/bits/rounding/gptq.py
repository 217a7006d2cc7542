"""GPTQ: rounding column by column, each error made up for by the columns still to come.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ", 2022, arXiv 2210.17323. With H = X X^T of
the inputs, damped, and U the upper Cholesky factor of its inverse: column j is rounded to q, and
(w - q) / U_jj times row j of U is taken from the columns after it. Updates beyond a block of
columns are made once per block. The range of a group is found when its first column is reached,
from its weights as they are by then, errors weighed by the diagonal of H. With `act_order`, groups
go by falling sum of the diagonal, and the columns of a group by falling diagonal: groups stay
neighbouring columns, and their ranges still fit the updated weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.ir.errors import DataError
from effc.passes.bits.rounding.codecs import Codec, IntegerCodec, fitted_range
from effc.passes.bits.rounding.fitted import Fitted, group_slices
from effc.passes.bits.rounding.grid import Matrix

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
        block: Columns between updates of all later columns.
        codec: The format of a group; None for symmetric codes of `bits` on clipped ranges.
        codecs: The formats of all groups, in place of one.
        weighs: Whether the range of a group weighs its errors by the diagonal of H.
    """

    bits: int
    group: int = 0
    act_order: bool = False
    damping: float = DAMPING
    block: int = BLOCK
    codec: Codec | None = None
    codecs: tuple[Codec, ...] = ()
    weighs: bool = True

    def rounded(self, weight: Matrix, moment: Matrix) -> Matrix:
        """Values of the grid for a weight.

        Args:
            weight: float64 [rows, columns], finite.
            moment: float64 [columns, columns], H.

        Raises:
            DataError: If H cannot be inverted with any damping.
        """
        return self.fitted(weight, moment).restored()

    def fitted(self, weight: Matrix, moment: Matrix) -> Fitted:
        """Codes, scales and zero points for a weight; see `rounded`."""
        return _Elimination(self, weight, moment).run()


class _Elimination:
    """One weight on its way.

    Args:
        options: Of the method.
        weight: float64 [rows, columns].
        moment: float64 [columns, columns].
    """

    def __init__(self, options: Gptq, weight: Matrix, moment: Matrix) -> None:
        self.options = options
        self.work, self.diagonal = weight.copy(), np.diag(moment).copy()
        self.work[:, self.diagonal <= 0] = 0
        self.slices = group_slices(weight.shape[1], options.group)
        self.order = self._order()
        self.place = np.argsort(self.order)
        self.upper = upper_inverse(moment[np.ix_(self.order, self.order)], options.damping)
        one = options.codec or IntegerCodec(options.bits)
        self.codecs = options.codecs or (one,) * len(self.slices)
        self.result = Fitted.empty(one, weight.shape, options.group, options.codecs)
        self.group_of = np.arange(weight.shape[1]) // (self.slices[0].stop or 1)
        self.is_known = np.zeros(len(self.slices), bool)

    def run(self) -> Fitted:
        """Block after block."""
        columns = len(self.order)
        for first in range(0, columns, self.options.block):
            last = min(first + self.options.block, columns)
            errors = np.zeros((len(self.work), last - first))
            for place in range(first, last):
                self._column(place, first, last, errors)
            self.work[:, self.order[last:]] -= errors @ self.upper[first:last, last:]
        return self.result

    def _column(self, place: int, first: int, last: int, errors: Matrix) -> None:
        """Round one column and take its error from the rest of the block."""
        at = int(self.order[place])
        group = int(self.group_of[at])
        if not self.is_known[group]:
            self._fit(group, place, first, last, errors)
        scale, zero = self.result.scale[:, group], self.result.zero[:, group]
        codes = self.codecs[group].codes(self.work[:, at], scale, zero)
        self.result.codes[:, at] = codes
        error = self.work[:, at] - self.codecs[group].restored(codes, scale, zero)
        errors[:, place - first] = error = error / self.upper[place, place]
        later = self.order[place + 1 : last]
        self.work[:, later] -= np.outer(error, self.upper[place, place + 1 : last])

    def _fit(self, group: int, place: int, first: int, last: int, errors: Matrix) -> None:
        """The range of a group from its weights as they are now, in and beyond the block."""
        here = self.slices[group]
        now, places = self.work[:, here].copy(), self.place[here]
        beyond = places >= last
        if beyond.any() and place > first:
            owed = self.upper[first:place][:, places[beyond]]
            now[:, beyond] -= errors[:, : place - first] @ owed
        importance = self.diagonal[here] if self.options.weighs else np.ones(len(places))
        importance = np.maximum(importance, 1e-12 * max(float(self.diagonal.max()), 1e-30))
        scale, zero = fitted_range(self.codecs[group], now, importance)
        self.result.scale[:, group], self.result.zero[:, group] = scale, zero
        self.is_known[group] = True

    def _order(self) -> NDArray[np.int64]:
        if not self.options.act_order:
            return np.arange(len(self.diagonal))
        sums = [-self.diagonal[one].sum() for one in self.slices]
        groups = [self.slices[number] for number in np.argsort(sums, kind="stable")]
        parts = [one.start + np.argsort(-self.diagonal[one], kind="stable") for one in groups]
        return np.concatenate(parts)


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
