"""Signals that arrive where nothing can be raised."""

import signal
import sys

import pytest

from effc.interruption import Interrupted, interruptible, raise_if_stopped


class Loud:
    """Its destructor is hit by a signal."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_a_lost_signal_is_raised_later_and_not_printed(capfd):
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as stop:
        Loud()
        assert stop.number == signal.SIGINT
        with pytest.raises(Interrupted):
            raise_if_stopped()
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is before


def test_other_lost_errors_reach_the_hook_there_was(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: seen.append(str(lost.exc_value)))

    class Broken:
        def __del__(self) -> None:
            raise ValueError("lost")

    with interruptible():
        Broken()
    assert seen == ["lost"]


def test_exit_codes():
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143
