"""Atoms: the smallest things that can be cut, merged and refined as operators relate positions.

An *axis* says for every position of a dimension which atoms it needs: an array [size, depth], in
which 0 means none. A position stays exactly if all of its atoms stay; None is an axis that cannot
be cut. Atoms merge (union-find) where positions must be cut together, and one is refined into two
where a dimension turns out to be a product, as heads times width.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Axis: TypeAlias = NDArray[np.int64]
Axes: TypeAlias = tuple[Axis | None, ...]
NONE = 0
FIRST_CAPACITY = 1 << 12


class Atoms:
    """All atoms of a program, with what is known about each.

    `why` holds a number per atom: of the reason for which it must stay, or 0. `tags` holds bits of
    what it was seen to be, `birth` which of them were made together.
    """

    def __init__(self) -> None:
        self.count = 1
        self.births = 0
        self.birth = np.zeros(FIRST_CAPACITY, np.int64)
        self.parent = np.arange(FIRST_CAPACITY)
        self.left = np.zeros(FIRST_CAPACITY, np.int64)
        self.right = np.zeros(FIRST_CAPACITY, np.int64)
        self.why = np.zeros(FIRST_CAPACITY, np.int64)
        self.tags = np.zeros(FIRST_CAPACITY, np.int64)

    def fresh(self, count: int) -> Axis:
        """New atoms, int64 [count]."""
        while self.count + count > len(self.parent):
            self._grow()
        self.births += 1
        self.birth[self.count : self.count + count] = self.births
        self.count += count
        return np.arange(self.count - count, self.count)

    def axis(self, size: int) -> Axis:
        """An axis [size, 1] of new atoms."""
        return self.fresh(size)[:, None]

    def find(self, atoms: Axis) -> Axis:
        """The representative of each atom."""
        roots = self.parent[atoms]
        while True:
            above = self.parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self.parent[atoms] = roots
        return roots

    def merge(self, first: Axis, second: Axis) -> None:
        """Let atoms be cut together, pair by pair. Neither may be refined."""
        while True:
            one, other = self.find(first), self.find(second)
            differs = one != other
            if not differs.any():
                return
            low = np.minimum(one, other)[differs]
            high = np.maximum(one, other)[differs]
            np.minimum.at(self.parent, high, low)
            roots = self.find(high)
            np.maximum.at(self.why, roots, self.why[high])
            np.bitwise_or.at(self.tags, roots, self.tags[high])

    def refine(self, atoms: Axis, left: Axis, right: Axis) -> None:
        """Let each atom stay exactly if two others stay. Atoms are distinct representatives."""
        self.left[atoms], self.right[atoms] = left, right
        for part in (left, right):
            np.maximum.at(self.why, part, self.why[atoms])
            np.bitwise_or.at(self.tags, part, self.tags[atoms])

    def resolve(self, axis: Axis) -> Axis:
        """The axis over atoms that are neither merged into others nor refined.

        Within a row no atom stands twice; columns that hold nothing are left out.
        """
        axis = self.find(axis)
        while True:
            left = self.left[axis]
            is_refined = left != NONE
            if not is_refined.any():
                break
            columns = is_refined.any(0)
            right = np.where(is_refined, self.right[axis], NONE)[:, columns]
            axis = np.concatenate([np.where(is_refined, left, axis), right], axis=1)
            axis = self.find(axis)
        for column in range(1, axis.shape[1]):
            is_twice = (axis[:, :column] == axis[:, column : column + 1]).any(1)
            if is_twice.any():
                axis[is_twice, column] = NONE
        used = (axis != NONE).any(0)
        return axis if used.all() else axis[:, used]

    def mark(self, axis: Axis | None, why: int = 0, tag: int = 0) -> None:
        """Record for every atom of an axis the reason why it must stay, or what it is."""
        if axis is None:
            return
        atoms = np.unique(self.resolve(axis))
        atoms = atoms[atoms != NONE]
        if why:
            self.why[atoms] = np.where(self.why[atoms] == 0, why, self.why[atoms])
        self.tags[atoms] |= tag

    def _grow(self) -> None:
        size = len(self.parent)
        self.parent = np.concatenate([self.parent, np.arange(size, 2 * size)])
        for name in ("left", "right", "why", "tags", "birth"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(size, np.int64)]))
