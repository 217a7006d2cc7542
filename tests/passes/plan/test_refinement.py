"""Refinement beside trying all choices, with losses that do not add up."""

import itertools
import math

import numpy as np
import pytest

from effc.passes.plan.model import Limit, Problem, plan_of
from effc.passes.plan.refinement import refined
from effc.passes.plan.solver import solve

UNITS = 5


@pytest.fixture(params=range(8))
def coupled(request, drawn):
    """A problem, and a loss of whole choices in which pairs of units share something."""
    problem = drawn(request.param, UNITS, {"nbytes": 0.5})
    rng = np.random.default_rng(request.param)
    changes = {
        (unit.name, option.name): rng.normal(size=3) * option.estimate.loss**0.5
        for unit in problem.units
        for option in unit.options
    }

    def measure(choices):
        return float(np.square(sum(changes[item] for item in choices.items())).sum())

    return problem, measure


def candidates(problem):
    return [solve(problem), solve(problem, "uniform")]


def test_never_worse_than_what_it_begins_with(coupled):
    problem, measure = coupled
    plans = candidates(problem)
    found = refined(problem, plans, measure, 4)
    losses = [measure(plan.choices) for plan in plans]
    assert found.candidates == {plan.solver: loss for plan, loss in zip(plans, losses, strict=True)}
    assert measure(found.plan.choices) == min([*losses, *found.rounds])
    assert list(found.rounds) == sorted(found.rounds, reverse=True)
    assert found.plan.keeps(problem.limits)


def test_a_round_takes_the_best_single_exchange_or_better(drawn):
    """Where losses add up, one round is exact within a step of every unit."""
    problem = drawn(3, UNITS, {"nbytes": 0.6})
    losses = {
        (unit.name, option.name): loss
        for unit in problem.units
        for option, loss in zip(unit.options, (9.0, 4.0, 2.0, 1.0), strict=False)
    }

    def measure(choices):
        return math.fsum(losses[item] for item in choices.items())

    start = solve(problem, "uniform")
    found = refined(problem, [start], measure, 1)
    best = measure(start.choices)
    for picked in itertools.product(*(unit.options for unit in problem.units)):
        names = {u.name: o.name for u, o in zip(problem.units, picked, strict=True)}
        near = all(_is_step(unit, start.choices, names) for unit in problem.units)
        if near and plan_of(problem, names, "all").keeps(problem.limits):
            best = min(best, measure(names))
    assert measure(found.plan.choices) == pytest.approx(best)


def _is_step(unit, before, after):
    order = [o.name for o in sorted(unit.options, key=lambda one: one.estimate.loss)]
    return abs(order.index(before[unit.name]) - order.index(after[unit.name])) <= 1


def test_steps_without_a_finite_loss_are_not_taken(drawn):
    problem = Problem(drawn(1, UNITS, {}).units, (Limit("nbytes", 1e9),))
    start = solve(problem)

    def measure(choices):
        return 1.0 if choices == start.choices else math.inf

    found = refined(problem, [start], measure, 3)
    assert found.plan == start
    assert found.rounds == ()


def test_no_rounds_choose_among_the_candidates(coupled):
    problem, measure = coupled
    asked = []
    plans = candidates(problem)
    found = refined(problem, plans, lambda choices: asked.append(choices) or measure(choices), 0)
    assert len(asked) == len(plans)
    assert found.plan in plans
