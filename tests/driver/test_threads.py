"""Threads beside those of the host: how many there are, what they leave alone, when they wait."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
WEIGHTS = "weights.safetensors"
ONE_PROCESSOR = ["taskset", "-c", "0"]
Run = Callable[..., Any]
Compile = Callable[[Path, str], Path]

needs_taskset = pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset")


@needs_taskset
def test_no_more_threads_than_processors_unless_asked(
    compiled: Compile, builds: dict[str, Path], run: Run
) -> None:
    """The model was built for two."""
    command = [compiled(HERE / "many_threads.c", "images"), builds["images"] / WEIGHTS]
    assert run([*ONE_PROCESSOR, *command, "0"]).stdout == "opened\n1 task\n"
    assert run([*ONE_PROCESSOR, *command, "2"]).stdout == "opened\n2 tasks\n"


@needs_taskset
def test_waiting_gives_way(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    """Sixteen threads on one processor: who waits does not take the time of who works."""
    command = [compiled(HERE / "seconds.c", "images"), builds["images"] / WEIGHTS]
    seconds = {
        threads: [float(word) for word in run([*ONE_PROCESSOR, *command, threads]).stdout.split()]
        for threads in (1, 16)
    }
    (alone, idle_alone), (crowded, idle) = seconds[1], seconds[16]
    switches = 200 * 8 * 16  # of runs, of meetings in a run, of threads in a meeting
    assert crowded < 4 * alone + 5e-6 * switches
    assert max(idle, idle_alone) < 0.02


def test_the_host_keeps_its_settings(compiled: Compile, builds: dict[str, Path], run: Run) -> None:
    """Rounding, traps and signals of the host neither change results nor are changed."""
    done = run([compiled(HERE / "surroundings.c", "images"), builds["images"] / WEIGHTS])
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"0 failed, 0 changed, 0 of [1-9]\d* elsewhere\n", done.stdout)
