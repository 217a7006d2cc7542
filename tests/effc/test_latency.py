"""Latency budgets: times of formats are measured once, plans keep them, builds are judged."""

import json
from pathlib import Path

import pytest

from effc import latency, planning
from effc.budgets import LatencyBudget
from effc.ir.errors import UsageError
from effc.passes.plan.timing import Rates, Timing

PLAIN = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()
PLANNED = ["-p", "allocate-bits{bits=float|8|4 metric=sqnr}", "-o", "out", "--max-latency"]
LAYERS = ("first", "second", "last")


@pytest.fixture
def timing(monkeypatch):
    """A layer takes 100 microseconds in float, 60 in 8 bits, 20 in 4; all else takes 1000."""
    seconds = {
        form: {**dict.fromkeys(LAYERS, each), "": 1e-3}
        for form, each in (("float32", 1e-4), ("w8a8", 6e-5), ("w4a8g32", 2e-5))
    }
    made = Timing(seconds)
    monkeypatch.setattr(planning, "measured_timing", lambda compilation, work: made)
    return made


def plan_of(folder):
    (row,) = json.loads((Path(folder) / "report.json").read_text())["passes"]
    return row["notes"]


def test_estimates_are_those_measured_and_the_sum_is_kept(run, clock, timing):
    assert timing.rest(LAYERS) == 1e-3
    assert timing.of(LAYERS, "w5a8g32") is None
    clock.seconds = {"baseline": 2e-3, "compiled": 1.1e-3}
    run(*PLAIN, *PLANNED, "60%").assert_succeeds()
    notes = plan_of("out")
    limit = next(one for one in notes["plan"]["limits"] if one["resource"] == "seconds")
    assert limit["at_most"] == pytest.approx(0.6 * 2e-3 * (1 - planning.MARGIN) - 1e-3)
    assert notes["plan"]["totals"]["seconds"] <= limit["at_most"]
    formats = {name: note["format"] for name, note in notes["layers"].items()}
    assert set(formats) == set(LAYERS)
    for note in notes["layers"].values():
        assert note["seconds_from"] == "measured"
        assert note["seconds"] == timing.seconds[note["format"]]["first"]
    changed = [note for note in notes["layers"].values() if "runner_up" in note]
    assert changed
    assert all(note["changes_at_seconds"] > 0 for note in changed)
    assert "1.1" in run("explain", "out").assert_succeeds().out


def test_a_build_that_is_too_slow_tightens_the_limit_and_ends_with_the_truth(run, clock, timing):
    clock.seconds = {"baseline": 2e-3, "compiled": 1.5e-3}
    run(*PLAIN, *PLANNED, "60%").assert_fails(
        4, "latency budget of 1.20 ms not met: the nearest reached is 1.50 ms (75.0% of the"
    )
    trials = json.loads(Path("out-candidate/report.json").read_text())["trials"]
    tried = [one for one in trials if one["what"].startswith("compiled")]
    assert len(tried) > 1
    assert all(one["seconds"] == 1.5e-3 for one in tried)


def test_the_binding_limit_is_named(run, clock, timing):
    words = [*PLAIN, *PLANNED, "900us"]
    run(*words).assert_fails(
        4, "(--max-latency 900us): the nearest feasible value is 0.00106 seconds"
    )


def test_without_a_plan_the_result_is_judged(run, clock):
    words = [*PLAIN, "-o", "out", "--max-latency"]
    run(*words, "50%").assert_succeeds()
    run(*words, "0.9ms").assert_fails(4, "latency budget of 900.0 µs not met")
    said = run(*words, "50%", "--dry-run").assert_succeeds().out
    assert "--max-latency is left out: without a build nothing is measured" in said


def test_formats_are_measured_once_on_a_machine(run, clock, monkeypatch):
    built = []
    original = latency._built
    monkeypatch.setattr(
        latency, "_built", lambda *arguments: built.append(1) or original(*arguments)
    )
    run(*PLAIN, *PLANNED, "99%").assert_succeeds()
    assert len(built) == 3
    seconds = [note["seconds"] for note in plan_of("out")["layers"].values()]
    assert min(seconds) > 0
    again = [*PLANNED[:3], "again", PLANNED[-1]]
    run(*PLAIN, *again, "98%").assert_succeeds()
    assert len(built) == 3
    rows = [note["seconds"] for note in plan_of("again")["layers"].values()]
    assert rows == seconds or plan_of("again")["plan"] != plan_of("out")["plan"]


@pytest.mark.parametrize(
    ("text", "budget", "allowed"),
    [("5ms", (5e-3, False), 5e-3), ("60%", (60, True), 0.6), ("1.5 s", (1.5, False), 1.5),
     ("800us", (8e-4, False), 8e-4)],
)  # fmt: skip
def test_budgets(text, budget, allowed):
    found = LatencyBudget.parse(text)
    assert (found.value, found.is_relative) == pytest.approx(budget)
    assert found.allowed(1.0) == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1ms", "5 minutes", "1e-3s"])
def test_budgets_there_are_none_of(text):
    with pytest.raises(UsageError, match="write 5ms, 800us, or 60%"):
        LatencyBudget.parse(text)


def test_roofline():
    rates = Rates({"int8": 4e9, "float32": 1e9}, 1e9)
    assert rates.seconds(8e9, 1e9, "int8") == 2
    assert rates.seconds(1e9, 3e9, "float32") == 3
