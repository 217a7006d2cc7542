"""The search: which schedules of which kernels to measure, within a number of trials.

Trials are shared out over kernels by the time each takes in the model. A small space is measured
as a whole. Of a larger one, a first half of the trials goes to the most promising points and to a
random sample, the second half to the neighbours of the best; then the best are measured against
each other in more rounds (successive halving, Jamieson and Talwalkar 2016, arXiv 1502.07943).
Every decision follows from the seed and from what the database holds, so that a search that was
stopped at any moment goes on where it was.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from effc.backends.measure import Latency
from effc.backends.tuning.database import Entry, KernelKey, TuningDatabase
from effc.codegen.schedule import Schedule, Space, distance

GROUP = 12
LEAST = 2
FIRST_ROUNDS, MORE_ROUNDS, KEPT_SHARE, FINALISTS = 8, 4, 4, 3


@dataclass(frozen=True)
class Outcome:
    """What came of a candidate.

    Attributes:
        latency: Over all rounds; None if it does not work.
        problem: Why it does not.
    """

    latency: Latency | None = None
    problem: str | None = None


Measure = Callable[[Sequence[Schedule], int], list[Outcome]]
"""Measures schedules, the default first, in a number of interleaved rounds."""


@dataclass
class KernelSearch:
    """The search for the best schedule of one kernel.

    Attributes:
        key: Which kernel.
        family: Its family.
        space: Every schedule, the default first, the others as promising as they are early.
        trials: How many of them may be measured.
        database: What is known, and where findings go.
        measure: How to measure.
        seed: Of the random sample.
        measured: How many candidates were measured anew.
        found: How many had been measured before.
    """

    key: KernelKey
    family: str
    space: Space
    trials: int
    database: TuningDatabase
    measure: Measure
    seed: int = 0
    measured: int = 0
    found: int = 0
    _ratios: dict[Schedule, float] = field(default_factory=dict)

    def run(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Measure all candidates, then the best of them more often.

        Args:
            progress: Called with the number of candidates known so far.
        """
        first = self.first_candidates()
        self._measure(first, FIRST_ROUNDS, progress)
        if self.trials < len(self.space):
            near = self._near_the_best(self.trials - len(first))
            self._measure([*first, *near], FIRST_ROUNDS, progress)
        rounds, left = FIRST_ROUNDS, self._working()
        while left:
            left = left[: max(len(left) // KEPT_SHARE, min(FINALISTS, len(left)))]
            rounds *= MORE_ROUNDS
            self._measure(left, rounds, lambda done: None)
            if len(left) <= FINALISTS:
                return
            left = self._working(left)

    def first_candidates(self) -> list[Schedule]:
        """All of a small space; else promising points, and a random sample, for half the trials."""
        if self.trials >= len(self.space):
            return list(self.space)
        count = max(-(-self.trials // 2), 1)
        promising = list(self.space[: -(-count // 2)])
        others = list(self.space[len(promising) :])
        generator = random.Random(f"{self.seed} {self.key.kernel}")
        return promising + generator.sample(others, count - len(promising))

    def _near_the_best(self, count: int) -> list[Schedule]:
        working = self._working()
        known = set(self._ratios)
        best = working[0] if working else self.space[0]
        others = [point for point in self.space if point not in known]
        return sorted(others, key=lambda point: distance(point, best))[:count]

    def _working(self, among: Sequence[Schedule] | None = None) -> list[Schedule]:
        """Candidates other than the default that work, the fastest first."""
        ratios = self._ratios if among is None else {s: self._ratios[s] for s in among}
        working = [s for s in ratios if ratios[s] < math.inf and s != self.space[0]]
        return sorted(working, key=lambda s: ratios[s])

    def _measure(
        self, candidates: Sequence[Schedule], rounds: int, progress: Callable[[int], None]
    ) -> None:
        """Measure what has not been measured in so many rounds, a group at a time."""
        known = {
            tuple(entry.schedule.items()): entry
            for entry in self.database.lookup(self.key)
            if entry.rounds == rounds or entry.problem is not None
        }
        default, todo = self.space[0], []
        for candidate in candidates:
            entry = known.get(tuple(candidate.values().items()))
            if entry is None:
                todo.append(candidate)
            elif candidate not in self._ratios or entry.rounds == rounds:
                self.found += rounds == FIRST_ROUNDS and candidate not in self._ratios
                self._ratios[candidate] = math.inf if entry.ratio is None else entry.ratio
        todo = [candidate for candidate in todo if candidate != default]
        needs_default = tuple(default.values().items()) not in known
        progress(len(self._ratios))
        while todo or needs_default:
            group, todo, needs_default = todo[: GROUP - 1], todo[GROUP - 1 :], False
            self._measure_group([default, *group], rounds)
            progress(len(self._ratios))

    def _measure_group(self, group: Sequence[Schedule], rounds: int) -> None:
        outcomes = self.measure(group, rounds)
        reference = outcomes[0].latency
        entries = []
        for schedule, outcome in zip(group, outcomes, strict=True):
            entry = self._entry(schedule, outcome, reference, rounds)
            self.measured += rounds == FIRST_ROUNDS and schedule not in self._ratios
            self._ratios[schedule] = math.inf if entry.ratio is None else entry.ratio
            entries.append(entry)
        self.database.append(entries)

    def _entry(
        self, schedule: Schedule, outcome: Outcome, reference: Latency | None, rounds: int
    ) -> Entry:
        latency = outcome.latency
        return Entry(
            key=self.key,
            family=self.family,
            schedule=schedule.values(),
            rounds=rounds,
            seconds=latency.median if latency else None,
            low=latency.low if latency else None,
            high=latency.high if latency else None,
            default_seconds=reference.median if reference and latency else None,
            problem=outcome.problem,
            when=now(),
        )


def now() -> str:
    """The time for an entry: UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def shared_out(
    trials: int, seconds: Mapping[str, float], spaces: Mapping[str, int]
) -> dict[str, int]:
    """Trials per kernel: by their time, at most the size of a space, at least two or none.

    Args:
        trials: How many there are.
        seconds: Time of every kernel in the model.
        spaces: Points of every kernel's space.

    Returns:
        A number for every kernel that gets any, the slowest first.
    """
    order = sorted((k for k in seconds if spaces[k] > 1), key=lambda k: (-seconds[k], k))
    kept = list(order)
    while len(kept) > 1 and trials * seconds[kept[-1]] < LEAST * sum(seconds[k] for k in kept):
        kept.pop()
    if not kept or trials < LEAST:
        return {}
    given, left = dict.fromkeys(kept, 0), trials
    for number, k in enumerate(kept):
        total = sum(seconds[other] for other in kept[number:])
        share = round(left * seconds[k] / total) if total else left
        given[k] = min(max(share, LEAST), spaces[k], left)
        left -= given[k]
    for k in kept:
        more = min(spaces[k] - given[k], left)
        given[k], left = given[k] + more, left - more
    rest = {k: seconds[k] for k in order[len(kept) :]}
    return {k: count for k, count in given.items() if count} | shared_out(left, rest, spaces)
