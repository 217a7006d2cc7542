"""Latency: percentiles as numpy finds them, and candidates measured in turns."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from effc.backends import measure
from effc.backends.measure import Latency, Start, interleaved, timed


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 12, 20, 21, 100, 101, 150])
def test_percentiles_are_runs_that_happened(count: int) -> None:
    """The 10th percentile rounded down, the 90th rounded up, in numpy's terms."""
    seconds = np.random.default_rng(count).exponential(size=count)
    found = Latency.of(seconds.tolist())
    assert found.median == np.median(seconds)
    assert found.low == np.percentile(seconds, 10, method="lower")
    assert found.high == np.percentile(seconds, 90, method="higher")
    assert found.runs == count
    assert found.to_json() == {
        "median": found.median, "low": found.low, "high": found.high, "runs": count,
    }  # fmt: skip


@dataclass
class Clock:
    """Time that passes only where a candidate takes it."""

    now: float = 0.0
    calls: list[str] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.calls.append("sleep")
        self.now += seconds

    def takes(self, name: str, *seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds[self.calls.count(name) % len(seconds)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    return made


def test_what_a_call_takes_is_what_is_reported(clock: Clock) -> None:
    found = interleaved(
        {
            "steady": lambda: clock.takes("steady", 0.004),
            "slow": lambda: clock.takes("slow", 0.3),
            "two speeds": lambda: clock.takes("two speeds", 0.001, 0.003),
        },
        rounds=8,
    )
    assert found["steady"].median == pytest.approx(0.004)
    assert (found["slow"].median, found["slow"].runs) == (pytest.approx(0.3), 8)
    assert found["two speeds"].low == pytest.approx(0.001)
    assert found["two speeds"].high == pytest.approx(0.003)
    assert found["steady"].runs * 0.004 == pytest.approx(8 * measure.ROUND_SECONDS, rel=0.1)


def test_candidates_take_turns(clock: Clock) -> None:
    """After the warm-up: a pause, a run that does not count, and a round of each."""
    done: list[tuple[int, int]] = []
    interleaved(
        {name: lambda name=name: clock.takes(name, 0.03) for name in "ab"},
        rounds=2,
        progress=lambda number, rounds: done.append((number, rounds)),
    )
    warm = 7  # 0.2 seconds
    turns = [["sleep", name, name, name] for name in "abab"]
    assert clock.calls == ["a"] * warm + ["b"] * warm + [call for turn in turns for call in turn]
    assert done == [(1, 2), (2, 2)]


def test_one_candidate_alone_needs_no_pause(clock: Clock) -> None:
    interleaved({"only": lambda: clock.takes("only", 0.01)}, rounds=3)
    assert "sleep" not in clock.calls


def test_calls_that_take_no_time_end(clock: Clock) -> None:
    """Even calls as short as the clock can tell."""
    found = interleaved({"short": lambda: clock.takes("short", 1e-4)}, rounds=2)
    assert found["short"].runs == 2 * round(measure.ROUND_SECONDS / 1e-4)


def test_the_time_of_one_call(clock: Clock) -> None:
    assert timed(lambda: clock.takes("first", 0.25)) == (None, 0.25)
    assert timed(lambda: "model") == ("model", 0)
    assert Start(0.5, 0.25).to_json() == {"load": 0.5, "first": 0.25}


def test_real_time() -> None:
    found = interleaved({"nap": lambda: time.sleep(0.02)}, rounds=2)["nap"]
    assert 0.02 <= found.low <= found.median <= found.high < 0.2
