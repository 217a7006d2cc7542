"""Compiles that are stopped at any moment, and the ones after them."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import effc

COMPILE = "compile cli_models:classifier --threads 1 --calib cli_models:slow_batches -o out".split()
EXIT = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
PATIENCE = 120


@pytest.fixture
def finished(run, clock):
    """An artifact in `out` that no interrupt may touch."""
    run("compile", "cli_models:classifier", "-o", "out", "--threads", "1").assert_succeeds()
    return {path.name: path.read_bytes() for path in Path("out").iterdir()}


def contents():
    return {path.name: path.read_bytes() for path in Path("out").iterdir()}


def started(process, stage):
    """Start a compile and wait until it is in a stage."""
    running = process(*COMPILE)
    for line in running.stderr:
        if stage in line:
            return running
    raise AssertionError(f"{stage} was never reached")


def group_is_gone(number):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGINT, "read model"),
        (signal.SIGINT, "build baseline"),
        (signal.SIGINT, "calibrate"),
        (signal.SIGTERM, "build compiled"),
        (signal.SIGTERM, "measure"),
    ],
)
def test_signals(finished, process, number, stage):
    generator = random.Random(f"{stage} {number}")
    running = started(process, stage)
    time.sleep(generator.uniform(0, 0.4))
    running.send_signal(number)
    _, err = running.communicate(timeout=PATIENCE)
    code, word = EXIT[number]
    assert running.returncode == code
    assert err.splitlines()[-1] == f"effc: error: {word}"
    assert "Traceback" not in err
    assert group_is_gone(running.pid)
    assert contents() == finished
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]


def test_killed_compiles_are_swept_by_the_next(finished, process, run, clock):
    generator = random.Random(0)
    for stage in ("build baseline", "measure"):
        running = started(process, stage)
        time.sleep(generator.uniform(0, 0.3))
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=PATIENCE)
        assert running.returncode == -signal.SIGKILL
        assert contents() == finished
    assert len(list(Path.cwd().iterdir())) > 1  # what a killed process cannot remove
    run(*COMPILE).assert_succeeds()
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]
    assert effc.load("out")(np.zeros((1, 32), np.float32)).shape == (1, 8)


def test_a_compile_beside_a_running_one_leaves_its_folder(process, run, clock):
    running = started(process, "calibrate")
    run("compile", "cli_models:classifier", "-o", "out", "--threads", "1").assert_succeeds()
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode in (0, 5), err
    assert effc.load("out")(np.zeros((1, 32), np.float32)).shape == (1, 8)


def test_statistics_survive_a_kill(process, run, clock, models, monkeypatch):
    running = started(process, "build compiled")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=PATIENCE)
    words = ["compile", "cli_models:classifier", "--threads", "1", "-o", "out"]
    again = run(*words, "--calib", "cli_models:slow_batches").assert_succeeds()
    assert "calibrate" not in again.err  # the statistics were there
    fresh = run(*words, "--calib", "cli_models:slow_batches", "--no-resume").assert_succeeds()
    assert "calibrate" in fresh.err
    other = run(*words, "--calib", "cli_models:labelled").assert_succeeds()
    assert "calibrate" in other.err  # other data, other statistics


def test_calibration_goes_on_where_it_was_killed(process, run, clock):
    running = started(process, "calibrate ...")
    time.sleep(2)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate(timeout=PATIENCE)
    run(*COMPILE).assert_succeeds()
    first = Path("out/weights.safetensors").read_bytes()
    run(*COMPILE, "--no-resume").assert_succeeds()
    assert Path("out/weights.safetensors").read_bytes() == first
