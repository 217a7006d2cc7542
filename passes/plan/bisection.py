"""Bisection against something measured, over an ordering in which more is safer.

After Schaefer et al. (2023, arXiv 2302.01382): an ordering by sensitivity makes one dimension of
the choice, and measured accuracy decides how far along it to go.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from effc.passes.plan.greedy import path
from effc.passes.plan.model import Limit, Problem, Resource
from effc.passes.plan.table import Table


@dataclass
class Bisection:
    """Finds the least number of steps that is enough.

    Attributes:
        low: The least number that may be enough.
        high: One more than the largest number worth trying.
    """

    low: int
    high: int

    def search(self, excess: Callable[[int], float]) -> int | None:
        """The least number with no excess, if more steps have no larger excess; None if all have.

        Args:
            excess: By how much a number of steps misses what is wanted; at most 0 if it does not.
        """
        found: int | None = None
        while self.low < self.high:
            middle = (self.low + self.high) // 2
            if excess(middle) <= 0:
                found, self.high = middle, middle
            else:
                self.low = middle + 1
        return found

    @property
    def steps(self) -> int:
        """How many numbers are tried at most."""
        return (self.high - self.low).bit_length()


@dataclass(frozen=True)
class Upgrade:
    """A step of the greedy path, read towards the better choice.

    Attributes:
        unit: Name of the unit that changes.
        option: Name of the option it takes.
        total: Of the resource, over all units, from which on it does.
    """

    unit: str
    option: str
    total: float


def upgrades_along(problem: Problem, resource: Resource) -> list[Upgrade]:
    """Steps from the least of a resource to the least predicted loss, in order of their totals.

    Args:
        problem: Its own limits are left out of account.
        resource: Of what.
    """
    free = Problem(problem.units, (Limit(resource, np.finfo(np.float64).max),), problem.objective)
    table = Table.of(free)
    found: list[Upgrade] = []
    for before, after in pairwise(path(table)):
        (unit,) = np.flatnonzero(before != after)
        option = int(before[unit] - table.first[unit])
        made = problem.units[unit]
        total = float(table.costs[before, 0].sum())
        found.append(Upgrade(made.name, made.options[option].name, total))
    return sorted(found, key=lambda one: one.total)


def limits_along(problem: Problem, resource: Resource) -> list[Limit]:
    """Limits on a resource, from the tightest to one that binds no more.

    They are the totals of the greedy path from the least predicted loss to the least of the
    resource; between two of them no step of that path lies.

    Args:
        problem: Its own limits are left out of account.
        resource: Of what.
    """
    least = sum(min(o.estimate.of(resource) for o in unit.options) for unit in problem.units)
    totals = {least, *(one.total for one in upgrades_along(problem, resource))}
    return [Limit(resource, total) for total in sorted(totals)]
