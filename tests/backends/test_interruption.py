"""Signals and other processes at any moment: an output folder is the old one or the new one."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from effc.backends import staging
from effc.backends.artifact import MANIFEST
from effc.backends.staging import undisturbed

LONGEST_SECONDS = 60
TRACED = {staging.__file__, contextlib.__file__}
Write = Callable[[Path, str], None]
Version = Callable[[Path], str | None]
Names = Callable[[Path], list[str]]


class Interruption:
    """Acts at the n-th line that runs of the module under test and of what it is entered through.

    Args:
        moment: Which line.
        act: What happens there.
    """

    def __init__(self, moment: int, act: Callable[[], object]) -> None:
        self.left, self.act = moment, act

    def __enter__(self) -> "Interruption":
        sys.settrace(self._trace)
        return self

    def __exit__(self, *details: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in TRACED and "conftest" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.act()
        return self._trace


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_signal_at_any_moment(
    can_exchange: bool,
    out: Path,
    write: Write,
    version: Version,
    only: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGINT at each line: the old one or the new one, never less, and nothing beside it."""
    if not can_exchange:
        monkeypatch.setattr(staging, "_exchanged", lambda first, second: False)
    write(out, "old")
    seen, files = set(), len(os.listdir("/proc/self/fd"))
    for moment in range(1, 5000):
        interruption = Interruption(moment, lambda: signal.raise_signal(signal.SIGINT))
        try:
            with interruption:
                write(out, "new")
        except KeyboardInterrupt:
            pass
        seen.add(version(out))
        assert only(out.parent) == ["out"], moment
        if interruption.left > 0:
            break
        write(out, "old")
    assert seen == {"old", "new"}
    assert moment > 200
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_being_killed_at_any_moment(out: Path, write: Write, version: Version, only: Names) -> None:
    """SIGKILL cannot be held back: the next run sweeps what it left."""
    write(out, "old")
    seen, moment, is_over = set(), 0, False
    while not is_over:
        moment += 7
        child = os.fork()
        if child == 0:
            with Interruption(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                write(out, "new")
            os._exit(0)
        is_over = os.waitpid(child, 0)[1] == 0
        seen.add(version(out))
        write(out, "old")
        assert only(out.parent) == ["out"], moment
    assert seen == {"old", "new"}
    assert moment > 200


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_writers_at_the_same_time(out: Path, write: Write, version: Version, only: Names) -> None:
    """Four processes replace one folder; whoever looks finds one whole artifact at all times."""
    write(out, "start")
    children = []
    for name in "abcd":
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(25):
                    write(out, name)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    seen, looks, deadline = set(), 0, time.monotonic() + LONGEST_SECONDS
    while children and time.monotonic() < deadline:
        folder = os.open(out, os.O_RDONLY)
        try:
            manifest = os.open(MANIFEST, os.O_RDONLY, dir_fd=folder)
        except FileNotFoundError:
            continue  # replaced and removed since the folder was opened
        finally:
            os.close(folder)
        with os.fdopen(manifest) as file:
            seen.add(json.load(file)["effc"])
        looks += 1
        if os.waitpid(children[0], os.WNOHANG) != (0, 0):
            children.pop(0)
    assert children == []
    assert seen <= {"start", *"abcd"}
    assert looks > 10
    assert version(out) in set("abcd")
    assert only(out.parent) == ["out"]


def test_signals_arrive_when_the_block_ends() -> None:
    seen: list[str] = []

    def interrupted() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            seen.append("still here")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["still here"]
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append("told"))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            assert seen == ["still here"]
        assert seen == ["still here", "told"]
    finally:
        signal.signal(signal.SIGTERM, before)
