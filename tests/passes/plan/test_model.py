"""What a problem refuses, what a plan says of itself, and bisection."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effc.ir.errors import UsageError
from effc.passes.plan.bisection import Bisection, limits_along
from effc.passes.plan.model import Estimate, Limit, Option, Plan, Problem, Unit, plan_of
from effc.passes.plan.solver import solve

WIDE = Option("float32", Estimate(0.0, 400, 3200, 32_000, 0.5, {"seconds": "measured"}))
NARROW = Option("int8", Estimate(0.25, 100, 800, 8000, 0.2), {"bits": "8"})
LAYER = Unit("encoder.query", (WIDE, NARROW), ("encoder.query", "encoder.key"))


def test_plan():
    problem = Problem((LAYER, Unit("head", (WIDE,))), (Limit("nbytes", 500),))
    found = solve(problem)
    assert found.choices == {"encoder.query": "int8", "head": "float32"}
    assert found.totals == {
        "loss": 0.25, "nbytes": 500, "weight_bits": 4000, "bit_operations": 40_000, "seconds": 0.7,
    }  # fmt: skip
    assert found.to_json()["choices"] == found.choices
    assert LAYER.layers == ("encoder.query", "encoder.key")
    assert Unit("head", (WIDE,)).layers == ("head",)
    assert WIDE.estimate.to_json()["sources"] == {"seconds": "measured"}
    with pytest.raises(KeyError, match=r"encoder\.query has no option 'int4'"):
        LAYER.option("int4")


def test_objective_other_than_loss():
    found = solve(Problem((LAYER,), (Limit("loss", 1.0),), "nbytes"))
    assert found.choices == {"encoder.query": "int8"}
    assert solve(Problem((LAYER,), (Limit("loss", 0.1),), "nbytes")).choices == {
        "encoder.query": "float32"
    }


@pytest.mark.parametrize(
    ("units", "limits", "message"),
    [
        ((), (), "there is nothing to decide: no unit has an option"),
        ((LAYER, LAYER), (), "two units of a plan have the same name"),
        ((Unit("a", ()),), (), "a has no option; there must be one that leaves it alone"),
        ((Unit("a", (WIDE, WIDE)),), (), "a has two options of the same name"),
        (
            (Unit("a", (Option("int4", Estimate(loss=math.nan)),)),), (),
            "a, option int4: predicted loss are nan, not a number to plan with",
        ),
        ((LAYER,), (Limit("seconds", math.inf),), "a limit of inf seconds is none"),
    ],
)  # fmt: skip
def test_problems_that_are_none(units, limits, message):
    with pytest.raises(UsageError) as raised:
        Problem(units, limits)
    assert str(raised.value) == message


def test_limit_ignores_the_last_digits():
    total = sum([0.1] * 10)
    assert total != 1.0
    assert Limit("seconds", total).holds(math.fsum([0.1] * 10))
    assert not Limit("nbytes", 1e9).holds(1e9 + 1)
    assert str(Limit("nbytes", 3e6, "--max-size 3MB")) == "at most 3e+06 bytes (--max-size 3MB)"


@given(st.integers(1, 200), st.integers(0, 200))
def test_bisection(count, enough):
    tried: list[int] = []

    def excess(number: int) -> float:
        tried.append(number)
        return enough - number

    search = Bisection(1, count + 1)
    most = search.steps
    assert search.search(excess) == (max(enough, 1) if enough <= count else None)
    assert len(tried) <= most
    assert len(set(tried)) == len(tried)


def test_limits_along_lead_from_the_smallest_to_the_best(drawn):
    problem = drawn(5, 6, {})
    limits = limits_along(problem, "nbytes")
    least = sum(min(o.estimate.nbytes for o in unit.options) for unit in problem.units)
    assert limits[0].at_most == least
    assert limits == sorted(limits, key=lambda one: one.at_most)
    losses = []
    for limit in limits:
        found = solve(Problem(problem.units, (limit,)))
        assert isinstance(found, Plan)
        losses.append(found.totals["loss"])
    assert losses == sorted(losses, reverse=True)
    best = {unit.name: min(unit.options, key=lambda o: o.estimate.loss).name
            for unit in problem.units}  # fmt: skip
    assert losses[-1] == pytest.approx(plan_of(problem, best, "").totals["loss"])
