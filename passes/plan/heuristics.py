"""Choices that look at no sensitivity: what an allocator has to beat.

The options of a unit have ranks: 0 is the costliest, where the cost is the sum over all limits of
what the option takes of each.
"""

from collections.abc import Callable

import numpy as np

from effc.passes.plan.solver import Answer
from effc.passes.plan.table import Indices, Table

DRAWS = 8


class Uniform:
    """The same rank everywhere: the costliest that keeps all limits."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Go down rank by rank."""
        return _first_kept(table, lambda rank: np.full(table.units, rank))


class FirstLast:
    """The first and the last unit take their costliest option, all others one rank."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Go down rank by rank."""
        ends = np.isin(np.arange(table.units), (0, table.units - 1))
        return _first_kept(table, lambda rank: np.where(ends, 0, rank))


class Random:
    """Random ranks, then units lowered by one rank in random order until the limits hold."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Draw a few times."""
        order, counts = _by_cost(table), np.diff(table.first)
        for _ in range(DRAWS):
            ranks = rng.integers(0, counts)
            steps = rng.permutation(np.repeat(np.arange(table.units), counts - 1))
            if _lowered(table, order, ranks, steps):
                return Answer(_picked(table, order, ranks))
        return None


def _lowered(table: Table, order: Indices, ranks: Indices, steps: Indices) -> bool:
    """Lower ranks in place; whether the limits hold in the end."""
    counts = np.diff(table.first)
    excess = table.excess(_picked(table, order, ranks))
    for unit in steps:
        if (excess <= 0).all():
            break
        if ranks[unit] + 1 < counts[unit]:
            at = table.first[unit] + ranks[unit]
            excess += table.costs[order[at + 1]] - table.costs[order[at]]
            ranks[unit] += 1
    return table.keeps(_picked(table, order, ranks))


def _first_kept(table: Table, ranks: Callable[[int], Indices]) -> Answer | None:
    order, most = _by_cost(table), int(np.diff(table.first).max())
    for rank in range(most):
        rows = _picked(table, order, ranks(rank))
        if table.keeps(rows):
            return Answer(rows)
    return None


def _by_cost(table: Table) -> Indices:
    """All rows, unit by unit, the costliest of each first."""
    cost = (table.costs / table.scales()).sum(1)
    return np.lexsort((-cost, table.owners()))


def _picked(table: Table, order: Indices, ranks: Indices) -> Indices:
    return np.asarray(order[table.first[:-1] + np.minimum(ranks, np.diff(table.first) - 1)])
