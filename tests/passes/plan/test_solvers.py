"""Every solver beside trying all choices, and beside each other on large problems."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from effc.ir.errors import UsageError
from effc.passes.plan import integer_program
from effc.passes.plan.model import Estimate, Infeasible, Limit, Option, Plan, Problem, Unit
from effc.passes.plan.solver import SOLVERS, Answer, solve, solver_of
from effc.passes.plan.table import Table

SHARES = st.dictionaries(
    st.sampled_from(["nbytes", "seconds", "bit_operations"]), st.floats(0, 1), max_size=3
)
LARGE, LONGEST_SECONDS = 10_000, 2.0


@pytest.fixture(params=["whole", "core"])
def way(request, monkeypatch):
    """Both ways to the integer program: over all rows, and over what the dual leaves."""
    if request.param == "core":
        monkeypatch.setattr(integer_program, "SMALL_ROWS", 0)


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), SHARES)
@example(0, 8, {"nbytes": 0.0, "seconds": 0.0})
@example(1, 8, {})
def test_integer_program_equals_trying_all(way, drawn, by_trying_all, seed, units, shares):
    problem = drawn(seed, min(units, 6 if len(shares) > 2 else 8), shares)
    best, found = by_trying_all(problem), solve(problem)
    assert isinstance(found, Infeasible) == (best is None)
    if best is not None:
        assert found.keeps(problem.limits)
        assert found.totals["loss"] == pytest.approx(best, rel=1e-9)
        assert found.bound == pytest.approx(best, rel=1e-9)


@hypothesis_settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), SHARES)
def test_frontier_equals_trying_all(drawn, by_trying_all, seed, units, shares):
    problem = drawn(seed, units, shares)
    best, found = by_trying_all(problem), solver_of("pareto").solve(Table.of(problem), None)
    assert (found is None) == (best is None)
    if found is not None:
        assert Table.of(problem).value(found.rows) == pytest.approx(best, rel=1e-12)
        assert found.bound == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@hypothesis_settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), SHARES)
def test_every_solver_keeps_limits(drawn, by_trying_all, solver, seed, units, shares):
    problem = drawn(seed, min(units, 6), shares)
    best, found = by_trying_all(problem), solve(problem, solver, np.random.default_rng(seed))
    assert isinstance(found, Infeasible) == (best is None)
    if isinstance(found, Plan):
        assert found.keeps(problem.limits)
        assert found.totals["loss"] >= best * (1 - 1e-9)
        assert found.choices.keys() == {unit.name for unit in problem.units}


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["nbytes", "seconds"]), st.integers(1, 300))
def test_nearest_feasible_value(drawn, by_trying_all, seed, resource, missing):
    whole = drawn(seed, 5, {"nbytes": 0.5, "seconds": 0.5})
    least = sum(min(o.estimate.of(resource) for o in unit.options) for unit in whole.units)
    other = next(limit for limit in whole.limits if limit.resource != resource)
    problem = Problem(whole.units, (Limit(resource, least - missing), other))
    found = solve(problem)
    assert isinstance(found, Infeasible)
    assert found.binding.resource == resource
    alone = Problem(whole.units, (other,), resource)
    assert found.nearest == by_trying_all(alone)
    assert found.plan.keeps((other,))
    assert isinstance(solve(Problem(whole.units, (Limit(resource, found.nearest), other))), Plan)


def test_binding_of_two_limits_that_exclude_each_other():
    small = Option("small", Estimate(nbytes=10, seconds=100))
    fast = Option("fast", Estimate(nbytes=100, seconds=10))
    limits = (Limit("nbytes", 60, "--max-size 60B"), Limit("seconds", 90, "--max-latency 90s"))
    found = solve(Problem((Unit("layer", (small, fast)),), limits))
    assert str(found) == (
        "no plan has at most 90 seconds (--max-latency 90s): the nearest feasible value is 100 "
        "seconds"
    )
    assert found.plan.choices == {"layer": "small"}


def test_binding_where_both_are_out_of_reach():
    only = Option("only", Estimate(nbytes=100, seconds=100))
    limits = (Limit("nbytes", 10), Limit("seconds", 90))
    found = solve(Problem((Unit("layer", (only,)),), limits))
    assert (found.binding.resource, found.nearest) == ("seconds", 100)


@pytest.fixture(scope="module")
def large():
    """Ten thousand layers of six formats each, limited in size and time."""
    rng = np.random.default_rng(0)
    units, totals = [], np.zeros((6, 2))
    for number in range(LARGE):
        weights, salience = rng.integers(100, 10**6), rng.lognormal(0, 2)
        options = []
        for at, bits in enumerate((2, 3, 4, 5, 6, 8)):
            nbytes, seconds = float(weights * bits // 8), weights * bits * (1 + rng.random()) * 1e-9
            totals[at] += nbytes, seconds
            loss = float(salience * weights * 4.0**-bits)
            options.append(Option(f"int{bits}", Estimate(loss, nbytes, seconds=seconds)))
        units.append(Unit(f"layer {number}", tuple(options)))
    size, time_ = np.quantile(totals, 0.4, axis=0)
    return Problem(tuple(units), (Limit("nbytes", size), Limit("seconds", time_)))


def test_ten_thousand_units(large):
    started = time.process_time()
    found = solve(large)
    assert time.process_time() - started < LONGEST_SECONDS
    assert found.keeps(large.limits)
    assert found.bound <= found.totals["loss"] <= found.bound * 1.0001
    greedy, uniform = solve(large, "greedy"), solve(large, "uniform")
    assert found.totals["loss"] <= greedy.totals["loss"] < uniform.totals["loss"]


def test_core_that_is_too_large_gives_a_bound(drawn, by_trying_all, monkeypatch):
    monkeypatch.setattr(integer_program, "SMALL_ROWS", 0)
    monkeypatch.setattr(integer_program, "CORE_ROWS", 2)
    for seed in range(12):
        problem = drawn(seed, 6, {"nbytes": 0.3, "seconds": 0.4})
        best = by_trying_all(problem)
        found = solve(problem)
        assert isinstance(found, Infeasible) == (best is None)
        if best is not None:
            assert found.keeps(problem.limits)
            assert (found.bound or 0) <= best * (1 + 1e-9) <= found.totals["loss"] * (1 + 2e-9)


def test_a_solver_that_finds_nothing_is_helped(drawn, monkeypatch):
    problem = drawn(3, 6, {"nbytes": 0.4, "seconds": 0.5})
    exact = solve(problem)
    monkeypatch.setattr("effc.passes.plan.heuristics.Uniform.solve", lambda *given: None)
    found = solve(problem, "uniform")
    assert found == exact
    assert found.solver == "ilp"


def test_unknown_solver(drawn):
    with pytest.raises(UsageError, match="unknown solver 'magic'; there are: ilp, pareto, greedy"):
        solve(drawn(0, 2, {}), "magic")


@pytest.mark.parametrize("name", SOLVERS)
def test_registry(name, drawn):
    assert isinstance(solver_of(name).solve(Table.of(drawn(0, 3, {})), np.random.default_rng(0)),
                      Answer)  # fmt: skip
