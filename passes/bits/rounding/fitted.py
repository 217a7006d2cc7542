"""A weight in codes of a codec, before it is packed."""

from dataclasses import dataclass, replace

import numpy as np

from effc.passes.bits.rounding.codecs import Codec, Codes, fitted_range
from effc.passes.bits.rounding.grid import Matrix


@dataclass(frozen=True, eq=False)
class Fitted:
    """Codes with a scale and a zero point per row and group of columns.

    Attributes:
        codec: What codes stand for.
        codes: uint8 [rows, columns].
        scale: float64 [rows, groups].
        zero: float64 [rows, groups].
        group: Neighbouring columns that share a scale; the last group may be smaller.
        codecs: Of every group, where they differ.
    """

    codec: Codec
    codes: Codes
    scale: Matrix
    zero: Matrix
    group: int
    codecs: tuple[Codec, ...] = ()

    @classmethod
    def empty(
        cls, codec: Codec, shape: tuple[int, ...], group: int, codecs: tuple[Codec, ...] = ()
    ) -> "Fitted":
        """Room for a weight; scales are 1."""
        width = min(group or shape[1], shape[1])
        groups = -(-shape[1] // width)
        ones = np.ones((shape[0], groups))
        return cls(codec, np.zeros(shape, np.uint8), ones, np.zeros_like(ones), width, codecs)

    def restored(self) -> Matrix:
        """The weight the codes stand for: float64 [rows, columns]."""
        if self.codecs:
            return np.concatenate([run.restored() for run in self.runs()], 1)
        scale, zero = self.spread()
        return self.codec.restored(self.codes, scale, zero)

    def runs(self) -> list["Fitted"]:
        """Neighbouring groups of one codec, as weights of their own."""
        if not self.codecs:
            return [self]
        found, first = [], 0
        for at in range(1, len(self.codecs) + 1):
            if at < len(self.codecs) and self.codecs[at] == self.codecs[first]:
                continue
            columns, groups = slice(first * self.group, at * self.group), slice(first, at)
            parts = self.codes[:, columns], self.scale[:, groups], self.zero[:, groups]
            found.append(Fitted(self.codecs[first], *parts, self.group))
            first = at
        return found

    def spread(self) -> tuple[Matrix, Matrix]:
        """Scale and zero point of every weight."""
        columns = self.codes.shape[1]
        parts = [np.repeat(one, self.group, axis=1)[:, :columns] for one in (self.scale, self.zero)]
        return parts[0], parts[1]

    def recoded(self, weight: Matrix) -> "Fitted":
        """The nearest codes for another weight with the same scales and zero points."""
        scale, zero = self.spread()
        return replace(self, codes=self.codec.codes(weight, scale, zero))


def group_slices(columns: int, group: int) -> list[slice]:
    """The columns of each group; the last one may be smaller."""
    width = min(group or columns, columns)
    return [slice(first, min(first + width, columns)) for first in range(0, columns, width)]


def nearest_fit(
    codec: Codec, weight: Matrix, group: int, importance: Matrix | None = None
) -> Fitted:
    """Round to nearest, each group on its range of least (weighed) squared error.

    Args:
        codec: The format.
        weight: float64 [rows, columns].
        group: Columns that share a scale; 0 for all.
        importance: Of columns, float64 [columns]; None for equal ones.
    """
    found = Fitted.empty(codec, weight.shape, group)
    for number, here in enumerate(group_slices(weight.shape[1], group)):
        worth = 1.0 if importance is None else importance[here]
        found.scale[:, number], found.zero[:, number] = fitted_range(codec, weight[:, here], worth)
    return found.recoded(weight)
