"""Tuning the kernels of a finished artifact, in place."""

import math
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from effc.artifact import Artifact, write_artifact
from effc.backends.measure import Latency, interleaved
from effc.backends.reading import read_manifest
from effc.backends.runner import Model
from effc.backends.staging import RESULT, check_replaceable, replacing
from effc.candidate import Arrays, Candidate, build_candidate, check_agreement, start_of
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.environment import environment
from effc.ir.errors import ArtifactError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.profile import peaks_of, profile_of
from effc.progress import Progress
from effc.tuning import ROUNDS, TUNED, UNTUNED, Tuning
from effc.units import speed_text, time_text

PRESENT = "present"


@dataclass
class Retuning:
    """One tuning of an artifact.

    Attributes:
        folder: The artifact.
        trials: How many candidates to measure.
        seed: Of random samples.
        progress: Called with a stage, the steps done and the steps in all.
    """

    folder: Path
    trials: int
    seed: int
    progress: Progress

    def run(self) -> dict[str, Any]:
        """Measure, and replace the artifact if that makes it faster.

        Returns:
            The report's `tuning` of the fastest build, `model`, `measured_at`, `is_replaced` and
            a `remark` in words.

        Raises:
            EffcError: If the artifact is damaged or cannot run here, or the new build differs from
                its program.
        """
        read_manifest(self.folder)
        artifact = Artifact(self.folder)
        check_replaceable(self.folder.resolve())
        self.report = dict(artifact.report)
        if self.report.get("elastic") or self.report.get("depths"):
            raise UsageError(f"{self.folder} is elastic; tune it by compiling it with --tune")
        threads = artifact.manifest.threads
        self.target = replace(Target.parse(artifact.recipe.target), cores=threads)
        sizes = self.report["measured_at"]["sizes"]
        self.tuning = Tuning.open(self.target, sizes, self.trials, self.seed)
        self.inputs, _ = artifact.sample()
        self.progress("read program", 0, 1)
        program = artifact.program()
        self.outputs = _outputs(program, self.inputs)
        self.progress("read program", 1, 1)
        with Model(self.folder) as present, tempfile.TemporaryDirectory() as scratch:
            return self._contest(present, program, artifact, Path(scratch))

    def _contest(
        self, present: Model, program: Program, artifact: Artifact, scratch: Path
    ) -> dict[str, Any]:
        plain = self._built(program, scratch / UNTUNED, nothing_chosen)
        self.tuning.search(plain, self.target, self.inputs, scratch, self.progress)
        tuned = self._built(program, scratch / TUNED, self.tuning.chosen)
        latencies = self._measured(present, plain, tuned)
        fastest = min((tuned, plain), key=lambda c: latencies[c.name].median)
        gain = speed_text(latencies[PRESENT].median, latencies[fastest.name].median)
        is_replaced = latencies[fastest.name].median < latencies[PRESENT].median
        self.tuning.latencies = {n: latencies[n] for n in (UNTUNED, TUNED)}
        fastest.latency = latencies[fastest.name]
        result = {
            "model": self.report["model"],
            "measured_at": self.report["measured_at"],
            "tuning": self.tuning.to_json(fastest if is_replaced else tuned),
            "latencies": {name: found.to_json() for name, found in latencies.items()},
            "is_replaced": is_replaced,
        }
        if is_replaced:
            self._write(fastest, artifact)
            times = [time_text(latencies[name].median) for name in (PRESENT, fastest.name)]
            return result | {"remark": f"{self.folder} is now {gain}: {' to '.join(times)}"}
        return result | {"remark": f"nothing found is faster; {self.folder} stays as it is"}

    def _built(self, program: Program, folder: Path, chosen: Chosen) -> Candidate:
        """A build of the program, checked as the artifact was."""
        self.progress(f"build {folder.name}", 0, 1)
        folder.mkdir()
        passes = self.report["passes"]
        candidate = build_candidate(folder.name, program, self.target, folder, passes, chosen)
        candidate.outputs = self.outputs
        check_agreement(candidate, self.inputs, self._floors())
        self.progress(f"build {folder.name}", 1, 1)
        return candidate

    def _floors(self) -> dict[str, float]:
        """The least signal to noise of every output, as the compile decided."""
        checks = self.report["result"]["check"]
        if set(checks) != set(self.outputs):
            raise ArtifactError(f"{self.folder} is damaged: its report is about other outputs")
        floors = {name: row["required_db"] for name, row in checks.items()}
        return {name: -math.inf if db is None else float(db) for name, db in floors.items()}

    def _measured(self, present: Model, *candidates: Candidate) -> dict[str, Latency]:
        models = {PRESENT: present} | {c.name: c.model for c in candidates}
        calls = {name: partial(model.run, self.inputs) for name, model in models.items()}
        return interleaved(
            calls, ROUNDS, lambda done, total: self.progress("compare schedules", done, total)
        )

    def _write(self, best: Candidate, artifact: Artifact) -> None:
        """Put a build in place of the artifact, with what is new in the report."""
        self.progress("write", 0, 1)
        recipe = artifact.recipe.model_copy(update={"tune": self.trials})
        old = self.report["result"]
        best.start = start_of(best, self.inputs)
        note = "the result was tuned, and its latency measured, after the baseline's"
        kept = [one for one in self.report["notes"] if one != note]
        report = self.report | {
            "environment": environment(),
            "recipe": recipe.model_dump(),
            "result": best.to_json() | {key: old[key] for key in ("quality", "scores")},
            "lowering": [dict(vars(row)) for row in best.built.rows],
            "kernels": best.built.kernels,
            "profile": profile_of(best.model, self.inputs, best.built.kernels),
            "peaks": peaks_of(best.model, self.target.cores),
            "memory": best.built.memory,
            "tuning": self.tuning.to_json(best),
            "notes": [*kept, note],
        }
        best.model.close()
        with replacing(self.folder) as scratch:
            write_artifact(scratch / RESULT, report, recipe, self.inputs, best)
        self.progress("write", 1, 1)


def _outputs(program: Program, inputs: Arrays) -> Arrays:
    found = program.run({name: torch.from_numpy(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in found.items()}
