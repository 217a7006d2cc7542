"""`effc tune`: an artifact gets faster kernels, or stays as it is."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import effc
from effc import retuning
from effc.backends.artifact import PROGRAM
from effc.backends.measure import Latency

TRIALS = 8
PATIENCE = 240


@pytest.fixture
def contest(monkeypatch):
    """Decides how the artifact as it is and the new builds compare."""
    seconds = {"present": 3e-3, "untuned": 2e-3, "tuned": 1e-3}

    def measured(calls, rounds, progress):
        outputs = [call() for call in calls.values()]
        for found in outputs[1:]:
            for name, value in found.items():
                np.testing.assert_allclose(value, outputs[0][name], rtol=1e-3, atol=1e-3)
        progress(rounds, rounds)
        return {name: Latency.of([seconds[name]]) for name in calls}

    monkeypatch.setattr(retuning, "interleaved", measured)
    return seconds


@pytest.fixture
def out(small_artifact):
    """A copy of a finished artifact that may change."""
    return Path(shutil.copytree(small_artifact, "out"))


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_an_artifact_is_replaced_by_a_faster_one(run, contest, out):
    before, expected = json.loads((out / "report.json").read_text()), effc.load(out)
    x = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    expected = expected(x)
    ran = run("tune", out, "--trials", TRIALS).assert_succeeds()
    assert ran.out.splitlines()[-1] == f"{out} is now 3.00x faster: 3.00 ms to 1.00 ms"
    assert "schedules measured, 0 known before" in ran.out
    report = json.loads((out / "report.json").read_text())
    assert set(report) == set(before)
    assert report["result"]["latency"]["median"] == 1e-3
    assert report["baseline"] == before["baseline"]
    assert report["tuning"]["measured"] >= TRIALS
    assert report["recipe"]["tune"] == TRIALS
    assert report["notes"][-1].startswith("the result was tuned")
    np.testing.assert_allclose(effc.load(out)(x), expected, rtol=1e-3, atol=1e-3)
    run("run", out).assert_succeeds()
    assert "baseline" in run("report", out).assert_succeeds().out
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]

    again = run("tune", out, "--trials", TRIALS, "--json").assert_succeeds().json
    assert again["is_replaced"]
    assert again["tuning"]["measured"] == 0
    notes = json.loads((out / "report.json").read_text())["notes"]
    assert notes == report["notes"]


def test_an_artifact_that_is_as_fast_stays(run, contest, out):
    contest["present"] = 1e-3
    before = contents(out)
    ran = run("tune", out, "--trials", "4").assert_succeeds()
    assert ran.out.splitlines()[-1] == f"nothing found is faster; {out} stays as it is"
    assert contents(out) == before


def test_artifacts_that_cannot_be_tuned(run, contest, out):
    run("tune", "nowhere").assert_fails(2, "is no artifact")
    damaged = bytearray((out / PROGRAM).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (out / PROGRAM).write_bytes(damaged)
    run("tune", out).assert_fails(2, f"{PROGRAM} is damaged")
    (out / PROGRAM).unlink()
    run("tune", out).assert_fails(2, f"{PROGRAM} is missing")
    run("run", out).assert_succeeds()  # it is not needed for anything else
    run("tune", out, "--trials", "0").assert_fails(2, "--trials")
    words = "compile cli_models:classifier --target eager -p remove-dead --keep-going -o eager"
    run(*words.split()).assert_succeeds()
    run("tune", "eager").assert_fails(2, "target eager has no kernels to tune")


def test_a_damaged_database_is_one_line(run, contest, out):
    Path(os.environ["EFFC_TUNING"]).write_text("{}\n")
    before = contents(out)
    run("tune", out).assert_fails(2, "is no tuning database of format 1", "EFFC_TUNING")
    assert contents(out) == before


@pytest.mark.parametrize("stage", ["read program", "tune ..."])
def test_an_interrupt_leaves_the_artifact(process, out, stage):
    before = contents(out)
    running = process("tune", out, "--trials", TRIALS)
    for line in running.stderr:
        if stage in line:
            break
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "effc: error: interrupted"
    assert contents(out) == before
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]
