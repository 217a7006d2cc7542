"""Plans compared by what they were measured to lose, then exchanged step by step while that helps.

What a metric predicts adds up over units; what units lose together does not. So the solver's choice
and others are measured, and around the best one the problem is posed again: every unit may go one
option up or down, at the loss measured for that step while all others stay as they are. As the
sequential greedy choice of MPTQ-ViT (2024, arXiv 2401.14895), but all steps of a round are chosen
together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from effc.passes.plan.model import Option, Plan, Problem, Unit, plan_of
from effc.passes.plan.solver import solve

Choices = Mapping[str, str]
Measure = Callable[[Choices], float]
HOW = "measured exchanges"


@dataclass(frozen=True)
class Refined:
    """The best plan that was measured.

    Attributes:
        plan: Keeps all limits; its totals are as predicted.
        candidates: Measured loss by the solver that made the plan.
        rounds: Measured loss after every round of exchanges that helped.
    """

    plan: Plan
    candidates: dict[str, float]
    rounds: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """What was measured, as plain data for the report."""
        return {"candidates": dict(self.candidates), "rounds": list(self.rounds)}


def refined(problem: Problem, plans: Sequence[Plan], measure: Measure, rounds: int) -> Refined:
    """Take the best of some plans and exchange options while the measured loss falls.

    Args:
        problem: Units and limits.
        plans: By different solvers; all keep the limits.
        measure: The loss of a choice; infinite where there is none.
        rounds: At most; each measures about two choices per unit.
    """
    found = {plan.solver: measure(plan.choices) for plan in plans}
    plan = min(plans, key=lambda one: found[one.solver])
    loss, losses = found[plan.solver], list[float]()
    for _ in range(rounds):
        choices = _exchanged(problem, plan.choices, loss, measure)
        after = loss if choices == plan.choices else measure(choices)
        if not after < loss:
            break
        plan, loss = plan_of(problem, choices, HOW), after
        losses.append(loss)
    return Refined(plan, found, tuple(losses))


def _exchanged(problem: Problem, choices: Choices, loss: float, measure: Measure) -> Choices:
    """The best choice of at most one step per unit, by the loss measured for each step alone."""
    units = tuple(
        replace(unit, options=tuple(_steps(unit, choices, loss, measure))) for unit in problem.units
    )
    found = solve(replace(problem, units=units))
    return found.choices if isinstance(found, Plan) else choices


def _steps(unit: Unit, choices: Choices, loss: float, measure: Measure) -> Iterator[Option]:
    """The option a unit has and its neighbours by predicted loss, with losses as measured."""
    order = sorted(unit.options, key=lambda one: one.estimate.loss)
    at = [option.name for option in order].index(choices[unit.name])
    for option in order[max(at - 1, 0) : at + 2]:
        is_kept = option.name == choices[unit.name]
        found = loss if is_kept else measure({**choices, unit.name: option.name})
        if math.isfinite(found):
            yield replace(option, estimate=replace(option.estimate, loss=found))
