"""A problem as arrays: what solvers work on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.passes.plan.model import ROUNDING, Plan, Problem, plan_of

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """All options of all units, one row after the other.

    Attributes:
        first: int64 [units + 1], the row where each unit begins; the last is the number of rows.
        objective: float64 [rows].
        costs: float64 [rows, limits].
        allowed: float64 [limits].
    """

    first: Indices
    objective: Vector
    costs: Vector
    allowed: Vector

    @classmethod
    def of(cls, problem: Problem) -> "Table":
        """The arrays of a problem."""
        counts = [len(unit.options) for unit in problem.units]
        resources = [limit.resource for limit in problem.limits]
        rows = [option.estimate for unit in problem.units for option in unit.options]
        return cls(
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            np.array([one.of(problem.objective) for one in rows]),
            np.array([[one.of(name) for name in resources] for one in rows]).reshape(len(rows), -1),
            np.array([limit.at_most for limit in problem.limits]),
        )

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.first) - 1

    def owners(self) -> Indices:
        """The unit of each row: int64 [rows]."""
        return np.repeat(np.arange(self.units), np.diff(self.first))

    def rows_of(self, unit: int) -> range:
        """The rows of a unit."""
        return range(int(self.first[unit]), int(self.first[unit + 1]))

    def least(self, values: Vector) -> Indices:
        """The row of least value in each unit; the first of equal ones: int64 [units]."""
        smallest, owners = np.minimum.reduceat(values, self.first[:-1]), self.owners()
        rows = np.flatnonzero(values == smallest[owners])
        return np.asarray(rows[np.diff(owners[rows], prepend=-1) > 0])

    def value(self, rows: Indices) -> float:
        """The objective of a choice."""
        return float(self.objective[rows].sum())

    def excess(self, rows: Indices) -> Vector:
        """By how much the totals of a choice exceed what is allowed: float64 [limits]."""
        return np.asarray(self.costs[rows].sum(0) - self.allowed)

    def keeps(self, rows: Indices) -> bool:
        """Whether a choice is within all limits."""
        return bool((self.excess(rows) <= ROUNDING * np.abs(self.allowed)).all())

    def scales(self) -> Vector:
        """What one limit's excess is measured in, so that different limits compare."""
        reach = np.abs(self.costs).sum(0)
        size = np.where(self.allowed != 0, np.abs(self.allowed), np.where(reach > 0, reach, 1.0))
        return np.asarray(size)

    def with_objective(self, values: Vector) -> "Table":
        """The same with another objective: float64 [rows]."""
        return Table(self.first, values, self.costs, self.allowed)

    def within(self, limits: Sequence[int]) -> "Table":
        """The same with some of the limits only."""
        return Table(
            self.first, self.objective, self.costs[:, list(limits)], self.allowed[list(limits)]
        )


def planned(problem: Problem, rows: Indices, solver: str, bound: float | None = None) -> Plan:
    """The plan of the rows a solver chose."""
    starts = Table.of(problem).first
    choices = {
        unit.name: unit.options[int(row - start)].name
        for unit, row, start in zip(problem.units, rows, starts[:-1], strict=True)
    }
    return plan_of(problem, choices, solver, bound)
