"""Where zeros of a weight may be: anywhere, N of M neighbours left, or whole blocks."""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.ir.errors import UsageError
from effc.passes.bits.rounding.grid import Matrix

Mask = NDArray[np.bool_]
_FORM = re.compile(r"(\d+)([:x])(\d+)")


@dataclass(frozen=True)
class Pattern:
    """A pattern of zeros in a weight `[rows, columns]`: output by input features.

    Attributes:
        kept: Of `within` neighbouring columns of a row, as many stay; 0 where any number may.
        within: M of N:M.
        rows: Output features of a block.
        columns: Input features of a block; 1 by 1 is unstructured.
    """

    kept: int = 0
    within: int = 0
    rows: int = 1
    columns: int = 1

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Read `unstructured`, `2:4` (N of M stay) or `16x4` (rows by columns of a block).

        Raises:
            UsageError: If it is none of them, or leaves nothing or everything.
        """
        if text == "unstructured":
            return cls()
        found = _FORM.fullmatch(text)
        if found is None:
            raise UsageError(f"pattern={text} is none of unstructured, N:M as 2:4, blocks as 16x4")
        first, last = int(found[1]), int(found[3])
        if found[2] == "x":
            if first < 1 or last < 1:
                raise UsageError(f"pattern={text}: a block has at least one row and column")
            return cls(rows=first, columns=last)
        if not 0 < first < last:
            raise UsageError(f"pattern={text} leaves {'nothing' if not first else 'everything'}")
        return cls(first, last)

    @property
    def is_fixed(self) -> bool:
        """Whether the pattern itself says how much goes (N:M)."""
        return self.within > 0

    @property
    def is_block(self) -> bool:
        """Whether weights go in blocks."""
        return self.rows * self.columns > 1

    @property
    def run(self) -> int:
        """Columns that must be looked at together."""
        return self.within or self.columns

    def ratio(self, wanted: float) -> float:
        """The share that goes."""
        return 1 - self.kept / self.within if self.is_fixed else wanted

    def units(self, scores: Matrix) -> Matrix:
        """Mean score of what goes together: `[rows / block rows, columns / block columns]`."""
        if not self.is_block:
            return scores
        down, across = -scores.shape[0] % self.rows, -scores.shape[1] % self.columns

        def summed(values: Matrix) -> Matrix:
            padded = np.pad(values, ((0, down), (0, across)))
            shape = padded.shape[0] // self.rows, self.rows, -1, self.columns
            return np.asarray(padded.reshape(shape).sum((1, 3)))

        return summed(scores) / summed(np.ones(scores.shape))

    def mask(self, scores: Matrix, ratio: float, per_row: bool = False) -> Mask:
        """What stays: the largest scores, the first of equal ones going first.

        Args:
            scores: float64 [rows, columns]; blocks go by their mean.
            ratio: The share of weights or blocks that goes, rounded down; at least one stays.
            per_row: Whether every row loses the same share; unstructured patterns only.
        """
        if self.is_fixed:
            runs = scores.reshape(len(scores), -1, self.within)
            gone = np.argsort(runs, axis=2, kind="stable")[:, :, : self.within - self.kept]
            kept = np.ones(runs.shape, bool)
            np.put_along_axis(kept, gone, False, 2)
            return kept.reshape(scores.shape)
        units = self.units(scores)
        lines = units if per_row and not self.is_block else units.reshape(1, -1)
        count = min(math.floor(ratio * lines.shape[1] + 1e-9), lines.shape[1] - 1)
        kept = np.ones(lines.shape, bool)
        gone = np.argsort(lines, axis=1, kind="stable")[:, :count]
        np.put_along_axis(kept, gone, False, 1)
        return self._spread(kept.reshape(units.shape), scores.shape)

    def _spread(self, units: Mask, shape: tuple[int, ...]) -> Mask:
        """Blocks as weights."""
        whole = units.repeat(self.rows, 0).repeat(self.columns, 1)
        return np.asarray(whole[: shape[0], : shape[1]])

    def reason(self, columns: int) -> str:
        """Why weights with so many columns cannot have this pattern; empty if they can."""
        if self.is_fixed and columns % self.within:
            return f"its {columns} columns are no multiple of {self.within}"
        return ""
