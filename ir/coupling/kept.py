"""A choice of atoms that stay, and what it leaves of axes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.analysis import Coupling
from effc.ir.coupling.atoms import NONE, Axis

Rows = NDArray[np.bool_]


class Kept:
    """Which atoms of a program stay.

    Args:
        coupling: Of the program.
        cut: The atoms that go, int64 [any].

    Raises:
        ValueError: If one of them must stay.
    """

    def __init__(self, coupling: Coupling, cut: NDArray[np.int64]) -> None:
        pinned = cut[coupling.atoms.why[cut] != 0]
        if len(pinned):
            reason = coupling.state.reasons[int(coupling.atoms.why[pinned[0]])]
            raise ValueError(f"cannot be cut: {reason}")
        self.coupling = coupling
        self.stays = np.ones(coupling.atoms.count, bool)
        self.stays[cut] = False
        self.stays[NONE] = True
        self._known: dict[int, tuple[Axis, Rows | None]] = {}

    def rows(self, axis: Axis | None) -> Rows | None:
        """Which positions of an axis stay; None where all do."""
        if axis is None:
            return None
        known = self._known.get(id(axis))
        if known is None:
            stays: Rows = np.asarray(self.stays[self.coupling.atoms.resolve(axis)].all(1))
            known = self._known[id(axis)] = (axis, None if bool(stays.all()) else stays)
        return known[1]

    def of(self, node: Any) -> list[Rows | None]:
        """The same for every dimension of a node that computes one tensor."""
        return [self.rows(axis) for axis in self.coupling.state.axes[node]]
