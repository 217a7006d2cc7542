"""Budgets: what they mean, what keeps them, and what happens if nothing does."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import effc
from effc.backends.runner import Model
from effc.budgets import DropBudget, SizeBudget, loss_of
from effc.ir.errors import UsageError

OUTLIER = """compile cli_models:with_outlier --threads 1 --calib cli_models:batches
    --eval cli_models:labelled_outlier --metric top1""".split()
PLAIN = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()


@pytest.mark.parametrize(
    ("text", "baseline", "allowed"),
    [
        ("1%", 0.8, 0.008), ("0.5pt", 0.8, 0.005), (" 2 % ", 10.0, 0.2), (".5pt", 3.0, 0.005),
        ("0%", 0.9, 0.0), ("100%", -2.0, 2.0), ("5%", -0.5, 0.025),
    ],
)  # fmt: skip
def test_drop(text, baseline, allowed):
    assert DropBudget.parse(text).allowed(baseline) == pytest.approx(allowed)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("3MB", 3_000_000), ("500KB", 500_000), ("25%", 25_000), ("1.5 MiB", 1_572_864),
        ("12b", 12), ("2GB", 2_000_000_000), ("1GiB", 1 << 30), ("3kib", 3072), ("110%", 110_000),
    ],
)  # fmt: skip
def test_size(text, allowed):
    assert SizeBudget.parse(text).allowed(100_000) == allowed


@pytest.mark.parametrize("text", ["", "1", "%", "-1%", "1 point", "1e3%", "nan%", "1%%", "1,5%"])
def test_unreadable_budgets(text):
    with pytest.raises(UsageError, match="is no budget"):
        DropBudget.parse(text)
    with pytest.raises(UsageError, match="is no budget"):
        SizeBudget.parse(text)


def test_loss():
    assert loss_of(0.9, 0.8, "higher") == pytest.approx(0.1)
    assert loss_of(2.0, 2.5, "lower") == pytest.approx(0.5)
    assert loss_of(2.0, 1.5, "lower") == pytest.approx(-0.5)


def accuracy(folder, models):
    right = [
        int(effc.load(folder)(x["x"]).argmax(-1)[0]) == int(y[0])
        for x, y in models.labelled_outlier()
    ]
    return float(np.mean(right))


@pytest.fixture
def too_slow(clock):
    clock.seconds = {"baseline": 1e-3, "compiled": 1.5e-3}
    return clock


def test_repair_leaves_the_one_bad_layer_in_float(run, clock, models):
    run(*OUTLIER, "-o", "free").assert_succeeds()
    assert accuracy("free", models) < 0.7
    ran = run(*OUTLIER, "-o", "kept", "--max-drop", "10pt").assert_succeeds()
    assert "quality budget: 1 of 3 layers stay in float: second\n" in ran.out
    report = json.loads(Path("kept/report.json").read_text())
    (row,) = report["passes"]
    assert set(row["notes"]["layers"]) == {"first", "last"}
    assert row["refusals"] == [{
        "rule": "quantize", "reason": "kept in float for the quality budget", "count": 1,
        "sources": ["second"],
    }]  # fmt: skip
    assert accuracy("kept", models) == pytest.approx(report["result"]["quality"])
    assert report["result"]["quality"] >= 0.9
    assert report["trials"][-1]["what"] == "compiled, float layers: 1"
    tried = [trial["quality"] for trial in report["trials"]]
    assert tried[0] == 1.0
    assert tried[1] < 0.7
    assert len(tried) <= 2 + 2  # the baseline, all layers, and a bisection over three


def test_repair_that_cannot_be_enough(run, clock):
    words = [*OUTLIER, "-p", "cli_models:ScaleBias{factor=-1e6},quantize", "-o", "out"]
    error = run(*words, "--max-drop", "1%").assert_fails(4, "quality budget of 1% not met: top1 is")
    kept = re.search(r"top1 is ([\d.]+), the baseline's 1.0000", error)
    report = json.loads(Path("out-candidate/report.json").read_text())
    assert float(kept[1]) == pytest.approx(report["result"]["quality"], abs=1e-4)
    assert report["verdict"]["breaks_budget"] is True
    assert not Path("out").exists()


def test_size_met_and_missed(run, clock):
    run(*PLAIN, "-o", "out", "--max-size", "99%").assert_succeeds()
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    error = run(*PLAIN, "-o", "out", "--max-size", "9KB").assert_fails(4, "9,000 bytes not met")
    nearest = int(re.search(r"the nearest reached is ([\d,]+) bytes", error)[1].replace(",", ""))
    assert "kept in out-candidate" in error
    assert "--keep-going" in error
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["out", "out-candidate"]
    assert abs(effc.Artifact("out-candidate").size_nbytes - nearest) < 400  # record digests
    run("run", "out-candidate").assert_succeeds()
    run(*PLAIN, "-o", "out", "--max-size", f"{nearest}B").assert_succeeds()
    run(*PLAIN, "-o", "out", "--max-size", f"{nearest - 1}B").assert_fails(4, f"{nearest:,}")


def test_slower_result(run, too_slow):
    ran = run(*PLAIN, "-o", "out")
    ran.assert_fails(5, "slower than the baseline: 1.50 ms against 1.00 ms", "out-candidate")
    assert too_slow.calls == 2  # it was measured again before it was refused
    assert not Path("out").exists()
    report = json.loads(Path("out-candidate/report.json").read_text())
    assert report["verdict"] == {
        "problems": ["the result is slower than the baseline: 1.50 ms against 1.00 ms"],
        "is_slower": True, "breaks_budget": False,
    }  # fmt: skip


def test_slower_and_too_large_is_a_budget(run, too_slow):
    error = run(*PLAIN, "-o", "out", "--max-size", "1KB").assert_fails(4, "1,000 bytes", "slower")
    assert "out-candidate" in error


def test_keep_going(run, too_slow):
    ran = run(*PLAIN, "-o", "out", "--max-size", "1KB", "--keep-going").assert_succeeds()
    assert "problem: the result is slower than the baseline" in ran.out
    assert "problem: size budget of 1,000 bytes not met" in ran.out
    assert not Path("out-candidate").exists()
    run("report", "out", "--html", "page.html").assert_succeeds()
    page = Path("page.html").read_text()
    assert page.count("<p class=bad>") == 2
    assert "<p class=good>" not in page
    assert "problem: size budget" in run("report", "out").out


def test_a_result_like_the_baseline_is_not_called_slower(run, too_slow):
    ran = run(*PLAIN, "-o", "out", "--exclude", "*").assert_succeeds()
    assert "the passes changed nothing; the result is the baseline" in ran.out


def test_candidate_that_cannot_be_kept(run, clock):
    Path("out-candidate").write_text("mine")
    error = run(*PLAIN, "-o", "out", "--max-size", "1KB").assert_fails(4, "cannot be kept")
    assert "out-candidate is a file" in error
    assert Path("out-candidate").read_text() == "mine"


def test_output_mismatch(run, clock, monkeypatch):
    original = Model.run
    monkeypatch.setattr(
        Model, "run", lambda *a: {name: value * 1.5 for name, value in original(*a).items()}
    )
    ran = run(*PLAIN, "-o", "out", "--keep-going")
    ran.assert_fails(6, "baseline: output", "differs from the program: 6.0 dB", "60.0 dB expected")
    assert list(Path.cwd().iterdir()) == []


def test_nan_is_a_mismatch(run, clock, monkeypatch):
    original = Model.run
    monkeypatch.setattr(
        Model, "run", lambda *a: {name: value * np.nan for name, value in original(*a).items()}
    )
    run(*PLAIN, "-o", "out").assert_fails(6, "-inf dB")


@pytest.mark.parametrize("command", [["compile"], ["inspect"]])
def test_everything_unsupported_is_listed(run, command):
    error = run(*command, "cli_models:spectrum").assert_fails(3, "2 operator(s)")
    assert "bessel_j0" in error
    assert "fft_r2c" in error or "fft_rfft" in error
    assert list(Path.cwd().iterdir()) == []


def test_a_run_that_differs_from_the_sample(run, small_artifact, monkeypatch):
    original = Model.run
    monkeypatch.setattr(
        Model, "run", lambda *a: {name: value + 1 for name, value in original(*a).items()}
    )
    run("run", small_artifact).assert_fails(6, "differs from the sample")
