"""How large the factors of each layer are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEPS = 60


@dataclass(frozen=True, eq=False)
class Choice:
    """A layer whose rank is wanted.

    Attributes:
        out: Output features.
        columns: Input features.
        energies: Squares of its singular values, falling; empty if nothing looks at them.
    """

    out: int
    columns: int
    energies: NDArray[np.float64]

    @property
    def dense(self) -> int:
        """Parameters of the weight."""
        return self.out * self.columns

    @property
    def each(self) -> int:
        """Parameters of a rank."""
        return self.out + self.columns

    def aligned(self, rank: float, align: int) -> int:
        """A multiple of `align` not above a rank, at least one of it; 0 where dense is smaller."""
        found = max(int(rank) // align, 1) * align
        return found if found * self.each < self.dense else 0


def uniform(layers: Sequence[Choice], ratio: float, align: int) -> list[int]:
    """The rank that leaves a share of a layer's parameters."""
    return [one.aligned((1 - ratio) * one.dense / one.each, align) for one in layers]


def by_energy(layers: Sequence[Choice], share: float, align: int) -> list[int]:
    """The smallest rank, rounded up, with so much of the energy of the layer's output."""
    found = []
    for one in layers:
        sums = np.cumsum(one.energies) / max(float(one.energies.sum()), 1e-30)
        rank = int(np.searchsorted(sums, share - 1e-12)) + 1
        found.append(one.aligned(-(-rank // align) * align, align))
    return found


def by_budget(layers: Sequence[Choice], ratio: float, align: int) -> list[int]:
    """Ranks with the largest share of energy per parameter, all layers together.

    A price on parameters says how far each layer goes; it falls until the budget is spent. A layer
    whose rank would take as many parameters as the weight stays whole (0).
    """
    budget = (1 - ratio) * sum(one.dense for one in layers)
    worth = [one.energies / max(float(one.energies.sum()), 1e-30) / one.each for one in layers]

    def at(price: float) -> list[int]:
        pairs = zip(layers, worth, strict=True)
        return [one.aligned(int((values >= price).sum()), align) for one, values in pairs]

    def cost(ranks: list[int]) -> int:
        pairs = zip(layers, ranks, strict=True)
        return sum(rank * one.each if rank else one.dense for one, rank in pairs)

    low, high = 0.0, max((float(values[0]) for values in worth), default=0.0) * 2
    for _ in range(STEPS):
        price = (low + high) / 2
        low, high = (price, high) if cost(at(price)) > budget else (low, price)
    return at(high)
