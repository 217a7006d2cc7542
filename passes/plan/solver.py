"""One interface for all solvers, and what to say where no plan keeps the limits."""

import dataclasses
from typing import Protocol

import numpy as np

from effc.passes.named import made
from effc.passes.plan.model import Infeasible, Limit, Plan, Problem
from effc.passes.plan.table import Indices, Table, planned

SOLVERS: dict[str, str] = {
    "ilp": "effc.passes.plan.integer_program:IntegerProgram",
    "pareto": "effc.passes.plan.pareto:Pareto",
    "greedy": "effc.passes.plan.greedy:Greedy",
    "uniform": "effc.passes.plan.heuristics:Uniform",
    "first-last": "effc.passes.plan.heuristics:FirstLast",
    "random": "effc.passes.plan.heuristics:Random",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a solver found.

    Attributes:
        rows: A row of the table per unit; within all limits.
        bound: No choice has a smaller objective than this; None where the solver cannot tell.
    """

    rows: Indices
    bound: float | None = None


class Solver(Protocol):
    """Chooses a row per unit."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """The choice of least objective within all limits; None if the solver finds none.

        Args:
            table: All options.
            rng: For solvers that draw.
        """


def solver_of(name: str) -> Solver:
    """A solver by name.

    Raises:
        UsageError: If there is none of that name.
    """
    found: Solver = made("solver", SOLVERS, name)
    return found


def solve(
    problem: Problem, solver: str = "ilp", rng: np.random.Generator | None = None
) -> Plan | Infeasible:
    """Choose an option for every unit.

    Args:
        problem: Units, limits, objective.
        solver: A key of `SOLVERS`.
        rng: For solvers that draw.

    Returns:
        A plan that keeps all limits, or which limit stands in the way. Solvers other than `ilp`
        and `pareto` may find no plan where there is one; then `ilp` is asked.
    """
    table = Table.of(problem)
    found = solver_of(solver).solve(table, rng or np.random.default_rng(0))
    if found is not None:
        return planned(problem, found.rows, solver, found.bound)
    exact = solver_of("ilp").solve(table, np.random.default_rng(0))
    if exact is not None:
        return planned(problem, exact.rows, "ilp", exact.bound)
    return _infeasible(problem)


def _infeasible(problem: Problem) -> Infeasible:
    """The limit that has to give least, in proportion, when all others are kept.

    If several limits are out of reach each by itself, the worst of them is kept out of the way
    first: limits are dropped, the most exceeded one first, until the rest can be kept.
    """
    limits = list(problem.limits)
    while True:
        nearest = [_nearest(problem, limits, limit) for limit in limits]
        known = [found for found in nearest if found is not None]
        if known:
            return min(known, key=_giving)
        limits.remove(max(limits, key=lambda one: _shortfall(problem, one)))


def _nearest(problem: Problem, limits: list[Limit], binding: Limit) -> Infeasible | None:
    """The least total of one limit's resource while the others hold; None if they cannot."""
    others = tuple(one for one in limits if one is not binding)
    relaxed = dataclasses.replace(problem, limits=others, objective=binding.resource)
    found = solver_of("ilp").solve(Table.of(relaxed), np.random.default_rng(0))
    if found is None:
        return None
    plan = planned(relaxed, found.rows, "ilp", found.bound)
    return Infeasible(binding, plan.totals[binding.resource], plan)


def _giving(found: Infeasible) -> float:
    allowed = found.binding.at_most
    return (found.nearest - allowed) / (abs(allowed) or 1.0)


def _shortfall(problem: Problem, limit: Limit) -> float:
    least = sum(min(o.estimate.of(limit.resource) for o in unit.options) for unit in problem.units)
    return (least - limit.at_most) / (abs(limit.at_most) or 1.0)
