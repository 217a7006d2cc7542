"""The Pareto frontier by dynamic programming, unit by unit.

As the selection of HAWQ-V2 (Dong et al., 2020, arXiv 1911.03852): of all partial choices only those
are kept that no other one beats in the objective and in every limited resource. Exact as long as at
most `STATES` of them are left after every unit; beyond that, those are thinned out along the first
resource and the answer has no bound.
"""

from dataclasses import dataclass

import numpy as np

from effc.passes.plan.solver import Answer
from effc.passes.plan.table import Indices, Table, Vector

STATES = 2048


@dataclass(frozen=True, eq=False)
class Front:
    """Choices of which none beats another.

    Attributes:
        rows: int64 [choices, units], in order of the first resource.
        objective: float64 [choices].
        costs: float64 [choices, limits].
        is_exact: Whether no other such choice exists.
    """

    rows: Indices
    objective: Vector
    costs: Vector
    is_exact: bool


class Pareto:
    """Takes the best choice of the frontier."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Build the frontier within the limits."""
        front = front_of(table)
        if not len(front.objective):
            return None
        best = int(np.argmin(front.objective))
        bound = float(front.objective[best]) if front.is_exact else None
        return Answer(front.rows[best], bound)


def front_of(table: Table, states: int = STATES) -> Front:
    """The frontier of a table: with an infinite `allowed`, of all there is.

    Args:
        table: Options, and the limits whose resources span the frontier with the objective.
        states: How many partial choices to keep.
    """
    left = _least_to_come(table)
    points = np.zeros((1, 1 + table.costs.shape[1]))
    history: list[tuple[Indices, Indices]] = []
    is_exact = True
    for unit in range(table.units):
        options = np.array(table.rows_of(unit))
        added = np.column_stack((table.objective[options], table.costs[options]))
        grown = (points[:, None, :] + added[None, :, :]).reshape(-1, points.shape[1])
        can_hold = (grown[:, 1:] + left[unit + 1] <= _ceiling(table)).all(1)
        kept = np.flatnonzero(can_hold)
        kept = kept[_undominated(grown[kept])]
        if len(kept) > states:
            kept, is_exact = kept[_thinned(grown[kept], states)], False
        history.append((kept // len(options), options[kept % len(options)]))
        points = grown[kept]
    order = np.argsort(points[:, -1], kind="stable") if table.costs.shape[1] else np.arange(1)
    order = order[: len(points)]
    rows = _traced(history, len(points))[order]
    return Front(rows, points[order, 0], points[order, 1:], is_exact)


def _ceiling(table: Table) -> Vector:
    return np.asarray(table.allowed + 1e-12 * np.abs(table.allowed))


def _least_to_come(table: Table) -> Vector:
    """The least that all units from each on must add: float64 [units + 1, limits]."""
    least = np.minimum.reduceat(table.costs, table.first[:-1], axis=0)
    later = np.cumsum(least[::-1], axis=0)[::-1]
    return np.vstack((later, np.zeros((1, table.costs.shape[1]))))


def _undominated(points: Vector) -> Indices:
    """Positions of points no other point is at most equal to everywhere; one of equal points."""
    order = np.lexsort(points.T[::-1])
    if points.shape[1] == 2:
        reach = np.minimum.accumulate(points[order, 1])
        is_lower = np.concatenate(([True], reach[1:] < reach[:-1]))[: len(order)]
        return np.asarray(order[is_lower])
    kept: list[int] = []
    best = np.empty((0, points.shape[1]))
    for at in order:
        if not (best <= points[at]).all(1).any():
            kept.append(int(at))
            best = np.vstack((best, points[at]))
    return np.array(kept, dtype=np.int64)


def _thinned(points: Vector, states: int) -> Indices:
    """The best point in each of as many slices of the last resource."""
    position = points[:, -1]
    reach = float(np.ptp(position)) or 1.0
    cell = ((position - position.min()) / reach * (states - 1)).astype(np.int64)
    order = np.lexsort((points[:, 0], cell))
    first = np.concatenate(([True], cell[order][1:] != cell[order][:-1]))
    return np.asarray(order[first])


def _traced(history: list[tuple[Indices, Indices]], count: int) -> Indices:
    """The rows of every choice, read back from where each partial choice came from."""
    rows = np.zeros((count, len(history)), dtype=np.int64)
    at = np.arange(count)
    for unit in range(len(history) - 1, -1, -1):
        parents, options = history[unit]
        rows[:, unit] = options[at]
        at = parents[at]
    return rows
