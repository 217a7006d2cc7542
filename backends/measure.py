"""The one way effc measures latency: candidates in interleaved rounds, median and spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

WARM_UP_SECONDS = 0.2
ROUND_SECONDS = 0.05
SETTLE_SECONDS = 0.02
Result = TypeVar("Result")


@dataclass(frozen=True)
class Latency:
    """Seconds per run over all rounds.

    Attributes:
        median: The middle run.
        low: The 10th percentile.
        high: The 90th percentile.
        runs: How many runs there were.
    """

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Latency":
        """Summarise runs."""
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered),
            ordered[last // 10],
            ordered[last - last // 10],
            len(ordered),
        )

    def to_json(self) -> dict[str, float]:
        """Plain data."""
        return dict(vars(self))


@dataclass(frozen=True)
class Start:
    """Seconds until the first result, which the runs after it do not take.

    Attributes:
        load: From the files to a model that can run; the files are in memory already.
        first: The first run, which also touches memory for the first time.
    """

    load: float
    first: float

    def to_json(self) -> dict[str, float]:
        """Plain data."""
        return dict(vars(self))


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and the seconds it took."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Latency]:
    """Measure candidates against each other.

    Each is warmed up; then every round runs each of them for the same short time, so that a slow
    phase of the machine hits all alike. Before its turn a candidate gets a pause, in which the
    threads of the one before it stop spinning, and one run that does not count.

    Args:
        candidates: What to call, by name.
        rounds: How many rounds.
        progress: Called after every round.
    """
    counts = {name: _warm_up(call) for name, call in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, call in candidates.items():
            if len(candidates) > 1:
                time.sleep(SETTLE_SECONDS)
            call()
            for _ in range(counts[name]):
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
        progress(number + 1, rounds)
    return {name: Latency.of(times) for name, times in seconds.items()}


def _warm_up(call: Callable[[], object]) -> int:
    """Run until the time is up; return how many runs fill a round."""
    started, runs = time.perf_counter(), 0
    while runs < 2 or time.perf_counter() - started < WARM_UP_SECONDS:
        call()
        runs += 1
    each = (time.perf_counter() - started) / runs
    return max(1, round(ROUND_SECONDS / each))
