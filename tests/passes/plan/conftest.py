"""Small random problems, and the best choice by trying all."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from effc.passes.plan.model import Estimate, Limit, Option, Problem, Resource, Unit, plan_of


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Problem]:
    """A random problem of some units; limits are shares of the way from least to most."""

    def make(seed: int, units: int, shares: dict[Resource, float]) -> Problem:
        rng = np.random.default_rng(seed)
        made = []
        for number in range(units):
            options = tuple(
                Option(
                    f"option {at}",
                    Estimate(
                        loss=float(rng.lognormal(0, 3)),
                        nbytes=float(rng.integers(1, 1000)),
                        seconds=float(rng.integers(1, 50)),
                        bit_operations=float(rng.integers(0, 9)),
                    ),
                )
                for at in range(rng.integers(1, 5))
            )
            made.append(Unit(f"unit {number}", options))
        limits = []
        for resource, share in shares.items():
            ends = [[o.estimate.of(resource) for o in unit.options] for unit in made]
            low, high = sum(map(min, ends)), sum(map(max, ends))
            limits.append(Limit(resource, math.floor(low + share * (high - low))))
        return Problem(tuple(made), tuple(limits))

    return make


@pytest.fixture(scope="session")
def by_trying_all() -> Callable[[Problem], float | None]:
    """The least objective within the limits; None where no choice keeps them."""

    def best(problem: Problem) -> float | None:
        found: list[float] = []
        for picked in itertools.product(*(unit.options for unit in problem.units)):
            names = {u.name: o.name for u, o in zip(problem.units, picked, strict=True)}
            plan = plan_of(problem, names, "all")
            if all(plan.totals[one.resource] <= one.at_most for one in problem.limits):
                found.append(plan.totals[problem.objective])
        return min(found, default=None)

    return best
