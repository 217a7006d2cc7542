"""Greedy descent: the cheapest step towards the limits, again and again.

As in the greedy mixed precision of MPTQ-ViT (2024): begin with the best option everywhere and
lower the unit with the best trade until the limits hold. The trade of a step is the objective it
costs per unit of excess it removes, where the excess over several limits is the sum of each in
proportion to its limit.
"""

import heapq
from collections.abc import Iterator

import numpy as np

from effc.passes.plan.solver import Answer
from effc.passes.plan.table import Indices, Table, Vector

EPSILON = 1e-12


class Greedy:
    """Descends from the best option everywhere, then takes back what the limits leave room for."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Descend from the least objective."""
        rows = lowered(table, table.least(table.objective))
        return None if rows is None else Answer(raised(table, rows))


def lowered(table: Table, rows: Indices) -> Indices | None:
    """Steps from a choice until all limits hold; None if no step helps any more."""
    rows, scales, owners = rows.copy(), table.scales(), table.owners()
    while not table.keeps(rows):
        excess = table.excess(rows)
        weights = np.where(excess > 0, 1.0 / scales, 0.0)
        if not _descend(table, rows, weights, owners):
            return None
    return rows


def raised(table: Table, rows: Indices) -> Indices:
    """Take back steps, those with the largest gain first, as long as all limits hold."""
    rows, excess, owners = rows.copy(), table.excess(rows), table.owners()
    gain = table.objective[rows][owners] - table.objective
    fits = (table.costs - table.costs[rows][owners] + excess <= 0).all(1)
    able = np.flatnonzero(fits & (gain > 0))
    for row in able[np.argsort(-gain[able], kind="stable")]:
        unit = owners[row]
        is_better = table.objective[row] < table.objective[rows[unit]]
        after = excess + table.costs[row] - table.costs[rows[unit]]
        if is_better and (after <= 0).all():
            rows[unit], excess = row, after
    return rows


def path(table: Table) -> Iterator[Indices]:
    """All choices on the way from the least objective to the least of the one limited resource.

    Yields:
        Rows of the table; each differs from the one before in one unit.
    """
    rows, weighed = table.least(table.objective), table.costs[:, 0]
    queue: list[tuple[float, int, int, int]] = []
    for unit in range(table.units):
        _push(queue, table, weighed, rows, unit)
    yield rows.copy()
    while queue:
        _, unit, before, after = heapq.heappop(queue)
        if rows[unit] == before:
            rows[unit] = after
            _push(queue, table, weighed, rows, unit)
            yield rows.copy()


def _descend(table: Table, rows: Indices, weights: Vector, owners: Indices) -> bool:
    """Steps by one set of weights until a limit that was broken holds; whether one was taken."""
    weighed = table.costs @ weights
    broken = weights > 0
    other = ~broken
    queue: list[tuple[float, int, int, int]] = []
    for unit in range(table.units):
        _push(queue, table, weighed, rows, unit)
    excess, is_taken = table.excess(rows), False
    while queue and (excess[broken] > 0).all():
        _, unit, before, after = heapq.heappop(queue)
        if rows[unit] != before:
            continue
        moved = excess + table.costs[after] - table.costs[before]
        if (moved[other] > np.maximum(excess[other], 0)).any():
            continue
        rows[unit], excess, is_taken = after, moved, True
        _push(queue, table, weighed, rows, unit)
    return is_taken


def _push(
    queue: list[tuple[float, int, int, int]],
    table: Table,
    weighed: Vector,
    rows: Indices,
    unit: int,
) -> None:
    """Queue every step of a unit that lowers the weighed excess, by what it costs."""
    now = int(rows[unit])
    for row, trade in _steps(table, weighed, now, unit):
        heapq.heappush(queue, (trade, unit, now, row))


def _steps(table: Table, weighed: Vector, now: int, unit: int) -> Iterator[tuple[int, float]]:
    for row in table.rows_of(unit):
        saved = float(weighed[now] - weighed[row])
        if saved > EPSILON:
            yield row, float(table.objective[row] - table.objective[now]) / saved
