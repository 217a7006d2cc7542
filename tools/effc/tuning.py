"""Tuned schedules in a compile: found in the database, or searched for and put there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from effc.backends.measure import Latency, interleaved
from effc.backends.tuning.database import TuningDatabase
from effc.backends.tuning.place import place_of
from effc.backends.tuning.tuner import Known, Tuner
from effc.candidate import Candidate
from effc.codegen.schedule import Values
from effc.ir import options
from effc.ir.errors import UsageError
from effc.ir.target import Target
from effc.profile import profile_of
from effc.progress import Progress
from effc.units import speed_text, time_text
from effc.version import __version__

TUNED_BACKEND = "tvm_cpu"
UNTUNED, TUNED = "untuned", "tuned"
ROUNDS = 15
Arrays = dict[str, np.ndarray]


@dataclass
class Tuning:
    """The schedules of one compile.

    Attributes:
        known: The database, or None where kernels have no schedules or it cannot be read.
        trials: How many candidates to measure; 0 to take what is known.
        seed: Of random samples.
        measured: Candidates measured now.
        found: Candidates that had been measured before.
        latencies: The model with default and with tuned schedules, measured in turns.
        notes: Remarks for the user.
        untouched: Families whose kernels keep their default schedules.
    """

    known: Known | None
    trials: int = 0
    seed: int = 0
    measured: int = 0
    found: int = 0
    latencies: dict[str, Latency] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    untouched: frozenset[str] = frozenset()

    @classmethod
    def open(cls, target: Target, sizes: dict[str, int], trials: int, seed: int = 0) -> Tuning:
        """Read the database; one that cannot be read is only needed for measuring.

        Raises:
            UsageError: If candidates are to be measured and that is not possible.
        """
        if target.backend != TUNED_BACKEND:
            if trials:
                raise UsageError(f"target {target} has no kernels to tune")
            return cls(None)
        try:
            database = TuningDatabase.open(options.tuning_database())
        except UsageError as error:
            if trials:
                raise
            return cls(None, notes=[f"no tuned schedules: {error}"])
        return cls(Known(database, place_of(target, __version__), sizes), trials, seed)

    def chosen(self, kernel: str) -> Values | None:
        """The schedule of a kernel that beats its default."""
        found = self.known.gain(kernel) if self.known else None
        return None if found is None or found.family in self.untouched else found.schedule

    def search(
        self, candidate: Candidate, target: Target, inputs: Arrays, work: Path, progress: Progress
    ) -> None:
        """Measure candidates of the kernels of a build.

        Args:
            candidate: The build; its kernels' schedules do not matter.
            target: What it was built for.
            inputs: What it is measured on.
            work: An existing folder to work in.
            progress: Called with a stage, the trials done and the trials in all.
        """
        from effc.backends.tvm_cpu.tuning import CpuSubject, kernel_seconds

        if self.known is None:
            raise AssertionError("there is no database to tune with")

        def seconds() -> dict[str, float]:
            rows = profile_of(candidate.model, inputs, candidate.built.kernels)
            steps = [(row["source"], row["seconds"]) for row in rows]
            return kernel_seconds(steps, candidate.built.kernels)

        tuner = Tuner(self.known, self.trials, self.seed, progress)
        tuner.run(CpuSubject(candidate.program, target, inputs, work, seconds))
        self.measured, self.found = tuner.measured, tuner.found

    def compare(self, plain: Candidate, tuned: Candidate, inputs: Arrays, say: Progress) -> bool:
        """Measure the model with default and with tuned schedules in turns; whether it gains."""
        candidates = {UNTUNED: plain, TUNED: tuned}
        calls = {n: (lambda model=c.model: model.run(inputs)) for n, c in candidates.items()}
        self.latencies = interleaved(
            calls, ROUNDS, lambda done, total: say("compare schedules", done, total)
        )
        return self.latencies[TUNED].median <= self.latencies[UNTUNED].median

    def remarks(self, kept: Candidate) -> list[str]:
        """What the user should know of the comparison."""
        before, after = (self.latencies[name].median for name in (UNTUNED, TUNED))
        count = len({note["kernel"] for note in kept.tuned_kernels})
        total = len({note["kernel"] for note in kept.built.kernels})
        if count:
            gain = speed_text(before, after)
            times = f"{time_text(before)} to {time_text(after)}"
            return [f"{count} of {total} kernels run with tuned schedules: {times}, {gain}"]
        if before == after or not self.trials:
            return []
        return ["no tuned schedule makes the model as a whole faster; the default ones are kept"]

    def to_json(self, candidate: Candidate) -> dict[str, Any] | None:
        """What the report keeps; None where kernels have no schedules."""
        if self.known is None:
            return None
        return {
            "database": str(self.known.database.path),
            "trials": self.trials,
            "measured": self.measured,
            "found": self.found,
            "latencies": {name: latency.to_json() for name, latency in self.latencies.items()},
            "kernels": tuned_kernels(self.known, candidate),
        }


def tuned_kernels(known: Known, candidate: Candidate) -> list[dict[str, Any]]:
    """A row per kernel that runs with a tuned schedule."""
    rows: dict[str, dict[str, Any]] = {}
    for note in candidate.tuned_kernels:
        entry = known.gain(note["kernel"])
        if note["kernel"] in rows or entry is None:
            continue
        rows[note["kernel"]] = {
            "kernel": note["kernel"],
            "family": note["family"],
            "source": note["source"],
            "schedule": note["schedule"],
            "seconds": entry.seconds,
            "default_seconds": entry.default_seconds,
            "when": entry.when,
        }
    return list(rows.values())
