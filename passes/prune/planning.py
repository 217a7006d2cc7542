"""How much of each group goes, by the solver that also allocates bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.groups import Group
from effc.passes.plan.model import Estimate, Infeasible, Limit, Option, Plan, Problem, Unit
from effc.passes.plan.solver import solve
from effc.passes.prune.cost import CutCost
from effc.passes.prune.selection import Scores, kept_count

SHARES = tuple(number / 10 for number in range(10, 0, -1))
SOLVER, SOURCE = "ilp", "modelled"
ROUNDS = 16


def units_of(
    groups: Sequence[Group], scores: Scores, steps: Sequence[int], cost: CutCost, resource: str
) -> list[Unit]:
    """A unit per group with an option per count that may be kept.

    The loss of an option is the sum of the scores of what goes. What it saves is measured with the
    others whole, and stands under `nbytes` for parameters, `bit_operations` for multiply-adds.
    """
    whole = cost.of(resource, np.zeros(0, np.int64))
    found = []
    for number, (group, score, step) in enumerate(zip(groups, scores, steps, strict=True)):
        order = np.argsort(score, kind="stable")
        options = {}
        for count in sorted({kept_count(group.size, share, step) for share in SHARES}):
            gone = order[: group.size - count]
            saved = whole - cost.of(resource, group.atoms[gone])
            options[str(count)] = Option(str(count), _estimate(resource, score[gone].sum(), -saved))
        found.append(Unit(f"{number} {group.name}", tuple(options.values())))
    return found


def planned(
    groups: Sequence[Group], scores: Scores, units: Sequence[Unit], most: float, resource: str
) -> NDArray[np.int64]:
    """The atoms that go in the plan of least loss that saves so much, as estimated.

    Args:
        groups: What the units stand for.
        scores: Per group.
        units: From `units_of`.
        most: What the estimates of a plan may add up to: less than 0.
        resource: `macs` or `parameters`.
    """
    limit = Limit("bit_operations" if resource == "macs" else "nbytes", most)
    answer = solve(Problem(tuple(units), (limit,)), SOLVER)
    plan: Plan = answer.plan if isinstance(answer, Infeasible) else answer
    parts = [np.zeros(0, np.int64)]
    for group, score, unit in zip(groups, scores, units, strict=True):
        gone = group.size - int(plan.choices[unit.name])
        parts.append(group.atoms[np.argsort(score, kind="stable")[:gone]])
    return np.concatenate(parts)


def least_loss(
    groups: Sequence[Group],
    scores: Scores,
    steps: Sequence[int],
    cost: CutCost,
    resource: str,
    goal: float,
) -> NDArray[np.int64]:
    """The plan of least loss whose cost, counted on the whole choice, is at most `goal`.

    Groups share weights, so that savings do not add up; a bisection finds the estimate to ask for.
    """
    units = units_of(groups, scores, steps, cost, resource)
    low = sum(min(_saved(option, resource) for option in unit.options) for unit in units)
    high, found = 0.0, planned(groups, scores, units, low, resource)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        trial = planned(groups, scores, units, middle, resource)
        if cost.of(resource, trial) <= goal:
            low, found = middle, trial
        else:
            high = middle
    return found


def _estimate(resource: str, loss: float, change: float) -> Estimate:
    if resource == "macs":
        sources = {"loss": "importance", "bit_operations": SOURCE}
        return Estimate(loss=float(loss), bit_operations=change, sources=sources)
    return Estimate(
        loss=float(loss), nbytes=change, sources={"loss": "importance", "nbytes": SOURCE}
    )


def _saved(option: Option, resource: str) -> float:
    estimate = option.estimate
    return estimate.bit_operations if resource == "macs" else estimate.nbytes
