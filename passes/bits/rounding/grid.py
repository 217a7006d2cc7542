"""Grids: the values codes of a group of weights stand for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Grid:
    """Values `(code - zero) * scale`, code from `low` to `high`, with a scale per row and group.

    Attributes:
        scale: float64 [rows, groups].
        zero: float64 [rows, groups]; the code of 0.0, not always whole.
        low: Smallest code.
        high: Largest code.
        group: Neighbouring columns that share a scale.
    """

    scale: Matrix
    zero: Matrix
    low: int
    high: int
    group: int

    def column(self, values: Matrix, at: int) -> Matrix:
        """The nearest values of the grid to those of one column: [rows]."""
        scale, zero = self.scale[:, at // self.group], self.zero[:, at // self.group]
        codes = np.clip(np.round(values / scale + zero), self.low, self.high)
        return np.asarray((codes - zero) * scale)

    def rounded(self, weight: Matrix) -> Matrix:
        """The nearest values of the grid: [rows, columns]."""
        scale, zero = self.spread(weight.shape[1])
        codes = np.clip(np.round(weight / scale + zero), self.low, self.high)
        return np.asarray((codes - zero) * scale)

    def spread(self, columns: int) -> tuple[Matrix, Matrix]:
        """Scale and zero of every weight: [rows, columns] each."""
        parts = [np.repeat(one, self.group, axis=1)[:, :columns] for one in (self.scale, self.zero)]
        return parts[0], parts[1]


def symmetric(weight: Matrix, bits: int, group: int) -> Grid:
    """Codes around zero, the largest magnitude of a group at the end.

    Args:
        weight: [rows, columns].
        bits: Width of a code, at least 2.
        group: Columns that share a scale; 0 for all.
    """
    split, width = split_groups(weight, group)
    largest = (1 << (bits - 1)) - 1
    scale = positive(np.abs(split).max(2) / largest)
    return Grid(scale, np.zeros_like(scale), -largest, largest, width)


def asymmetric(weight: Matrix, bits: int, group: int) -> Grid:
    """Codes from the least to the largest value of a group, widened to hold 0; whole zeros."""
    split, width = split_groups(weight, group)
    low, high = np.minimum(split.min(2), 0), np.maximum(split.max(2), 0)
    scale = positive((high - low) / ((1 << bits) - 1))
    return Grid(scale, np.round(-low / scale), 0, (1 << bits) - 1, width)


def split_groups(weight: Matrix, group: int) -> tuple[Matrix, int]:
    """A weight as [rows, groups, width], the last group padded with zeros, and the width."""
    columns = weight.shape[1]
    width = min(group or columns, columns)
    padded = np.pad(weight, ((0, 0), (0, -columns % width)))
    return padded.reshape(len(weight), -1, width), width


def positive(scale: Matrix) -> Matrix:
    """Scales, 1 where all weights of a group are 0 or subnormal."""
    return np.where(scale < TINY, 1.0, scale)
