"""Tunes the kernels of a program; trials are shared out by time, findings go to a database."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from effc.backends.tuning.database import Entry, KernelKey, Place, Profile, TuningDatabase
from effc.backends.tuning.search import KernelSearch, Measure, now, shared_out
from effc.codegen.schedule import Space, Values

WORTH_IT = 0.98


@dataclass(frozen=True)
class Known:
    """What the database says about kernels at some place and sizes.

    Attributes:
        database: What was measured.
        place: Where.
        sizes: Values of the program's symbolic sizes.
    """

    database: TuningDatabase
    place: Place
    sizes: dict[str, int]

    def key(self, kernel: str) -> KernelKey:
        """The key of a kernel here."""
        return KernelKey(kernel=kernel, sizes=self.sizes, place=self.place)

    def gain(self, kernel: str) -> Entry | None:
        """The entry of a schedule that beats the default by more than noise."""
        best = self.database.best(self.key(kernel))
        return best if best is not None and (best.ratio or 1.0) <= WORTH_IT else None

    def chosen(self, kernel: str) -> Values | None:
        """The schedule of a kernel that beats its default, by the fingerprint of its region."""
        found = self.gain(kernel)
        return None if found is None else found.schedule


class Subject(Protocol):
    """A program whose kernels can be measured one by one."""

    def spaces(self) -> dict[str, tuple[str, Space]]:
        """Family and space of every kernel, by fingerprint."""

    def profile(self) -> dict[str, float]:
        """Seconds every kernel takes in the model, over all its calls."""

    def benches(self, kernels: list[str]) -> Iterator[tuple[str, Measure]]:
        """What measures each of some kernels."""


@dataclass
class Tuner:
    """One tuning of a program.

    Attributes:
        known: The database and where we are.
        trials: How many candidates to measure over all kernels.
        seed: Of random samples.
        progress: Called with a stage, the trials done and the trials in all.
        measured: Candidates measured now.
        found: Candidates that had been measured before.
    """

    known: Known
    trials: int
    seed: int = 0
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None
    measured: int = 0
    found: int = 0
    _seconds: Mapping[str, float] = field(default_factory=dict)

    def run(self, subject: Subject) -> None:
        """Measure; whatever is found is in the database at once."""
        spaces = subject.spaces()
        self._seconds = self._profile(subject, list(spaces))
        sizes = {kernel: len(space) for kernel, (_, space) in spaces.items()}
        given = shared_out(self.trials, self._seconds, sizes)
        total, done = sum(given.values()), 0
        for kernel, measure in subject.benches(list(given)):
            family, space = spaces[kernel]
            search = KernelSearch(
                self.known.key(kernel), family, space, given[kernel], self.known.database, measure,
                self.seed,
            )  # fmt: skip
            search.run(partial(self._advance, done, total))
            self.measured, self.found = self.measured + search.measured, self.found + search.found
            done += given[kernel]
            self._report(done, total)
        if not given:
            self._report(1, 1)

    def _profile(self, subject: Subject, kernels: list[str]) -> Mapping[str, float]:
        """The profile that shares out trials: the first one ever measured, so that it stays."""
        known = self.known
        model = hashlib.blake2b(json.dumps(sorted(kernels)).encode(), digest_size=16).hexdigest()
        found = known.database.profile(model, known.place, known.sizes)
        if found is None:
            found = Profile(
                model=model, seconds=subject.profile(), place=known.place, sizes=known.sizes,
                when=now(),
            )  # fmt: skip
            known.database.append([found])
        return {kernel: found.seconds.get(kernel, 0.0) for kernel in kernels}

    def _advance(self, before: int, total: int, count: int) -> None:
        self._report(min(before + count, total), total)

    def _report(self, done: int, total: int) -> None:
        before = sum(self._seconds.values())
        gains = {kernel: self.known.gain(kernel) for kernel in self._seconds}
        after = sum(
            seconds * ((entry.ratio or 1.0) if (entry := gains[kernel]) else 1.0)
            for kernel, seconds in self._seconds.items()
        )
        best = f"{before / after:.2f}x" if after else "1.00x"
        self.progress(f"tune; kernels {best} faster", done, total)
