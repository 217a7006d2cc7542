"""Budgets kept by a plan: measured sizes and quality, what is said where there is no such plan."""

import json
import re
from pathlib import Path

import pytest

import effc
from effc import compiler, planning
from effc.front import draw_front, measured_points
from effc.ir.errors import UsageError
from effc.passes.bits.metrics import registry

PLAIN = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()
OUTLIER = """compile cli_models:with_outlier --threads 1 --calib cli_models:batches
    --eval cli_models:labelled_outlier --metric top1""".split()
PLANNED = ["-p", "allocate-bits{bits=float|8 metric=sqnr}"]
BETWEEN = 5000


@pytest.fixture
def whole(small_artifact):
    """Bytes of the classifier in float."""
    report = json.loads((small_artifact / "report.json").read_text())
    return int(report["baseline"]["size_nbytes"])


def test_size_is_kept_with_the_least_loss(run, clock, whole, monkeypatch):
    budget = whole - BETWEEN
    run(*PLAIN, *PLANNED, "-o", "out", "--max-size", f"{budget}B").assert_succeeds()
    report = json.loads(Path("out/report.json").read_text())
    assert effc.Artifact("out").size_nbytes <= budget
    (row,) = report["passes"]
    formats = {name: note["format"] for name, note in row["notes"]["layers"].items()}
    assert formats.keys() == {"first", "second", "last"}
    assert set(formats.values()) == {"float32", "w8a8"}
    assert row["notes"]["plan"]["limits"][0]["resource"] == "nbytes"
    said = run("explain", "out").assert_succeeds().out
    for name, text in formats.items():
        assert re.search(rf"^ *{name} +{text} ", said, re.MULTILINE), said
    assert "measured on the way" in said
    facts = run("explain", "out", "--json").json
    assert facts["measured"][0]["what"] == "baseline"
    assert facts["plan"]["metric"] == "sqnr"

    def never(study, name, forms):
        raise AssertionError("measured again")

    monkeypatch.setattr(registry.Metric, "losses", never, raising=False)
    run(*PLAIN, *PLANNED, "-o", "more", "--max-size", f"{budget + 3000}B").assert_succeeds()
    assert effc.Artifact("more").size_nbytes <= budget + 3000


def test_size_that_no_plan_has(run, clock, whole):
    ran = run(*PLAIN, *PLANNED, "-o", "out", "--max-size", "9KB")
    error = ran.assert_fails(4, "size budget of 9,000 bytes not met", "kept in out-candidate")
    told = (
        r"no plan has at most .* bytes \(--max-size 9KB\): the nearest feasible value is [\d,]+ b"
    )
    assert re.search(f"by the plan's estimates: {told}", error)
    report = json.loads(Path("out-candidate/report.json").read_text())
    formats = {note["format"] for note in report["passes"][0]["notes"]["layers"].values()}
    assert formats == {"w8a8"}


def test_quality_is_kept_with_the_smallest_plan(run, clock):
    run(*OUTLIER, *PLANNED, "-o", "out", "--max-drop", "10pt").assert_succeeds()
    report = json.loads(Path("out/report.json").read_text())
    layers = report["passes"][0]["notes"]["layers"]
    assert layers["second"]["format"] == "float32"
    assert report["result"]["quality"] >= 0.9
    assert report["result"]["size_nbytes"] < report["baseline"]["size_nbytes"]
    tried = [trial for trial in report["trials"] if "predicted_loss" in trial]
    assert len(tried) <= 3
    met = [trial["size_nbytes"] for trial in tried if trial["quality"] >= 0.9]
    assert report["result"]["size_nbytes"] == min(met)


@pytest.fixture
def pessimist(monkeypatch):
    """A search that begins with no room for weights, as where the baseline has large kernels."""

    class Pessimist(planning._Search):
        def __init__(self, compilation, work):
            super().__init__(compilation, work)
            self.overhead = self.largest

    monkeypatch.setattr(planning, "_Search", Pessimist)


@pytest.mark.parametrize("budgets", [(), ("--max-drop", "100pt")])
def test_what_builds_take_beside_weights_is_measured(run, clock, whole, pessimist, budgets):
    words = [*OUTLIER, *PLANNED, "-o", "out", "--max-size", f"{whole - BETWEEN}B", *budgets]
    run(*words).assert_succeeds()
    report = json.loads(Path("out/report.json").read_text())
    assert effc.Artifact("out").size_nbytes <= whole - BETWEEN
    (row,) = report["passes"]
    assert "infeasible" not in row["notes"] or budgets
    formats = {note["format"] for note in row["notes"]["layers"].values()}
    assert formats == ({"w8a8"} if budgets else {"float32", "w8a8"})


def test_dry_run_shows_the_plan(run):
    words = [*PLAIN, *PLANNED, "--max-size", "60%", "--dry-run"]
    said = run(*words).assert_succeeds().out
    assert "plan by sqnr, ilp: loss" in said
    (row,) = [row for row in run(*words, "--json").json if "plan" in row["notes"]]
    plan = row["notes"]["plan"]
    whole = plan["sizes"][-1]
    assert plan["totals"]["nbytes"] + plan["other_nbytes"] <= 0.6 * whole
    formats = {note["format"] for note in row["notes"]["layers"].values()}
    assert formats == {"float32", "w8a8"}


def test_both_budgets_that_exclude_each_other(run, clock):
    words = [*OUTLIER, *PLANNED, "-o", "out", "--max-drop", "1%", "--max-size", "9KB"]
    run(*words).assert_fails(
        4, "size budget of 9,000 bytes not met", "quality budget of 1% not met"
    )
    assert not Path("out").exists()


def point(size, quality, what="trial"):
    return {"what": what, "size_nbytes": size, "quality": quality}


@pytest.mark.parametrize(
    ("better", "expected"),
    [("higher", [True, True, False, False]), ("lower", [False, True, True, True])],
)
def test_front(better, expected, tmp_path):
    trials = [point(100, 0.9), point(80, 0.8), point(90, 0.7), point(85, 0.75)]
    report = {"metric": {"better": better, "name": "top1"}, "trials": trials}
    assert [one["is_best"] for one in measured_points(report)] == expected
    path = tmp_path / "front.png"
    draw_front(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_front_of_nothing(tmp_path):
    report = {"metric": None, "trials": [point(100, None)]}
    assert measured_points(report)[0]["is_best"] is None
    with pytest.raises(UsageError, match="nothing was evaluated; compile with --eval"):
        draw_front(report, tmp_path / "front.png")


def test_low_bit_formats_are_what_is_shipped(run, clock):
    """Kernels read the codes that were planned."""
    words = [*PLAIN, "-p", "allocate-bits{metric=sqnr average_bits=4.0}", "-o", "out"]
    run(*words).assert_succeeds()
    report = json.loads(Path("out/report.json").read_text())
    layers = report["passes"][0]["notes"]["layers"]
    formats = {note["format"] for note in layers.values()}
    assert any(text.startswith(("w2", "w3", "w4")) for text in formats), formats
    assert "lowbit" in {kernel["family"] for kernel in report["kernels"]}
    saved = report["baseline"]["memory_nbytes"] - report["result"]["memory_nbytes"]
    planned = 4 * (32 * 48 + 48 * 48 + 48 * 8) - sum(note["nbytes"] for note in layers.values())
    assert saved > 0.5 * planned
    run("run", "out").assert_succeeds()


def stages(ran):
    return {line.split("  ")[-1].rsplit(" ", 1)[0] for line in ran.err.splitlines()}


def test_a_second_run_builds_the_best_only(run, clock):
    words = [*OUTLIER, *PLANNED, "--max-drop", "10pt"]
    run(*words, "-o", "out").assert_succeeds()
    first = json.loads(Path("out/report.json").read_text())
    builds = []
    original = compiler.build_candidate

    def counted(name, *rest):
        builds.append(name)
        return original(name, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiler, "build_candidate", counted)
        ran = run(*words, "-o", "again").assert_succeeds()
    assert builds == ["baseline", "compiled"]
    again = json.loads(Path("again/report.json").read_text())
    assert again["trials"] == first["trials"]
    assert again["passes"][0]["notes"] == first["passes"][0]["notes"]
    assert not any(stage.startswith(("sensitivity", "calibrate")) for stage in stages(ran))
    builds.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiler, "build_candidate", counted)
        run(*words, "-o", "fresh", "--no-resume").assert_succeeds()
    assert len(builds) > 2


def test_a_budget_that_changed_measures_nothing_but_builds(run, clock):
    words = [*OUTLIER, "-p", "allocate-bits{bits=float|8|4}", "-o", "out"]
    run(*words, "--max-drop", "10pt").assert_succeeds()
    ran = run(*words, "--max-drop", "5pt").assert_succeeds()
    assert not any(stage.startswith(("sensitivity", "calibrate")) for stage in stages(ran))


@pytest.mark.parametrize("stage", ["measure changes", "build compiled"])
def test_killed_at_any_time_and_run_again(run, clock, process, stage):
    words = [*"compile cli_models:classifier --threads 1 --calib cli_models:slow_batches".split(),
             "-p", "allocate-bits{average_bits=6.0}", "-o", "out", "--keep-going"]  # fmt: skip
    running = process(*words)
    for line in running.stderr:
        if stage in line:
            break
    else:
        raise AssertionError(f"{stage} was never reached")
    running.kill()
    running.wait()
    running.stderr.close()
    run(*words).assert_succeeds()
    resumed = json.loads(Path("out/report.json").read_text())["passes"][0]["notes"]
    run(*words[:-2], "fresh", "--keep-going", "--no-resume").assert_succeeds()
    fresh = json.loads(Path("fresh/report.json").read_text())["passes"][0]["notes"]
    assert resumed == fresh
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []
