"""Tuned schedules in a compile: searched for, found again, compared, refused."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import effc
from effc import tuning
from effc.backends.measure import Latency
from effc.backends.tuning.database import TuningDatabase

COMPILE = "compile cli_models:classifier --threads 1 --calib cli_models:batches -o out".split()
TRIALS = 12
PATIENCE = 240


@pytest.fixture
def database():
    return Path(os.environ["EFFC_TUNING"])


@pytest.fixture
def contest(monkeypatch):
    """Decides how the model with and without tuned schedules compares."""
    seconds = {"untuned": 2e-3, "tuned": 1e-3}

    def measured(calls, rounds, progress):
        for call in calls.values():
            call()
        progress(rounds, rounds)
        return {name: Latency.of([seconds[name]]) for name in calls}

    monkeypatch.setattr(tuning, "interleaved", measured)
    return seconds


def report():
    return json.loads(Path("out/report.json").read_text())


def entries(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [row for row in rows if row["kind"] == "entry"]


def forge_gains(path, factor):
    """Let every schedule but the defaults be faster than its default in one more round."""
    found = TuningDatabase.open(path)
    defaults = {}
    for row in entries(path):
        defaults.setdefault(row["key"]["kernel"], row["schedule"])
    for lines in list(found._entries.values()):
        best = next(e for e in lines if e.schedule != defaults[e.key.kernel] and e.seconds)
        update = {"seconds": best.seconds * factor, "default_seconds": best.seconds, "rounds": 999}
        found.append([best.model_copy(update=update)])
    return len(found._entries)


@pytest.fixture
def tuned(run, clock, contest, database):
    """A finished compile with a search."""
    return run(*COMPILE, "--tune", TRIALS).assert_succeeds()


def test_a_search_and_the_compiles_after_it(tuned, run, contest, database):
    first = report()["tuning"]
    assert first["database"] == str(database)
    assert first["trials"] == TRIALS
    assert TRIALS <= first["measured"] <= TRIALS + 4
    assert first["found"] == 0
    assert "tune ..." in tuned.err
    assert all("problem" not in row for row in entries(database))
    assert len({row["key"]["kernel"] for row in entries(database)}) >= 2
    content = database.read_bytes()

    run(*COMPILE, "--tune", TRIALS).assert_succeeds()
    second = report()["tuning"]
    assert (second["measured"], database.read_bytes()) == (0, content)
    assert second["found"] == first["measured"]
    run(*COMPILE, "--tune", TRIALS, "--seed", "5").assert_succeeds()

    kernels = forge_gains(database, 0.5)
    ran = run(*COMPILE).assert_succeeds()
    third = report()
    assert len(third["tuning"]["kernels"]) == kernels
    assert third["tuning"]["measured"] == 0
    chosen = {row["kernel"]: row["schedule"] for row in third["kernels"] if row["schedule"]}
    for row in third["tuning"]["kernels"]:
        assert row["seconds"] == pytest.approx(row["default_seconds"] / 2)
        assert chosen[row["kernel"]] == row["schedule"]
    note = f"{kernels} of {len({row['kernel'] for row in third['kernels']})} kernels run with tuned"
    assert f"note: {note} schedules: 2.00 ms to 1.00 ms, 2.00x faster" in ran.out
    model = effc.load("out")
    assert model(np.zeros((1, 32), np.float32)).shape == (1, 8)

    contest["tuned"] = 3e-3
    ran = run(*COMPILE, "--tune", TRIALS).assert_succeeds()
    assert report()["tuning"]["kernels"] == []
    assert all(row["schedule"] is None for row in report()["kernels"])
    assert "no tuned schedule makes the model as a whole faster" in ran.out


def test_a_database_that_cannot_be_read(run, clock, contest, database):
    database.write_text("a letter\n")
    ran = run(*COMPILE).assert_succeeds()
    assert f"note: no tuned schedules: {database} is no tuning database of format 1" in ran.out
    assert report()["tuning"] is None
    failed = run(*COMPILE, "--tune", "4")
    failed.assert_fails(2, f"{database} is no tuning database", "move it away", "EFFC_TUNING")
    assert database.read_text() == "a letter\n"


def test_targets_without_kernels_and_senseless_numbers(run, clock):
    words = ["compile", "cli_models:classifier", "--target", "eager", "-p", "remove-dead"]
    run(*words, "--tune", "4").assert_fails(2, "target eager has no kernels to tune")
    run(*words).assert_succeeds()
    assert report()["tuning"] is None
    run(*COMPILE, "--tune", "-1").assert_fails(2, "--tune")
    run(*COMPILE, "--tune", "many").assert_fails(2, "--tune")


def test_an_interrupted_search_loses_nothing(run, process, clock, contest, database):
    running = process(*COMPILE, "--tune", TRIALS)
    deadline = time.monotonic() + PATIENCE
    while not (database.exists() and len(entries(database)) >= 4):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "effc: error: interrupted"
    assert "Traceback" not in err
    assert list(Path.cwd().iterdir()) == []
    before = entries(database)
    run(*COMPILE, "--tune", TRIALS).assert_succeeds()
    assert report()["tuning"]["found"] >= 3
    after = entries(database)
    assert after[: len(before)] == before
    points = [(r["key"]["kernel"], tuple(r["schedule"].values()), r["rounds"]) for r in after]
    defaults = {r["key"]["kernel"]: tuple(r["schedule"].values()) for r in reversed(after)}
    others = [point for point in points if point[1] != defaults[point[0]]]
    assert len(set(others)) == len(others)  # nothing is measured twice


def test_low_bit_kernels_are_tuned_but_not_those_of_elastic_artifacts(
    run, clock, contest, database
):
    low_bits = [*COMPILE, "-p", "quantize-weights{bits=8}", "--keep-going"]
    run(*low_bits, "--tune", TRIALS).assert_succeeds()
    assert "lowbit" in {row["family"] for row in entries(database)}
    forge_gains(database, 0.5)
    run(*low_bits).assert_succeeds()
    tuned = report()["tuning"]["kernels"]
    run(*low_bits, "--elastic", "8,4").assert_succeeds()
    elastic = report()["tuning"]["kernels"]
    assert len(elastic) < len(tuned)


def test_depths_share_the_weights_of_tuned_kernels(run, clock, contest, database):
    deep = "compile cli_models:residual --threads 1 --calib cli_models:batches -o out".split()
    deep += ["--keep-going", "-p", "quantize-weights{bits=8}", "--depths", "1"]
    run(*deep, "--tune", 6).assert_succeeds()
    forge_gains(database, 0.5)
    run(*deep).assert_succeeds()
    assert report()["tuning"]["kernels"]
    assert [row["depth"] for row in report()["depths"]] == [1]
