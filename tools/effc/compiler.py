"""The whole way from a model to an artifact, step by step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from effc.artifact import Artifact, write_artifact
from effc.backends.measure import interleaved
from effc.backends.staging import RESULT, replacing
from effc.candidate import Candidate, build_candidate, check_outputs, start_of
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.elastic import SHARED, check_target, shortened, widened
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.metrics import Scores, called, quality
from effc.passes.base import Pass
from effc.passes.instruments import CostChange
from effc.passes.manager import PassManager
from effc.passes.plan.model import Limit
from effc.passes.plan.timing import Timing
from effc.passes.registry import parse_pipeline
from effc.passes.report import PipelineReport
from effc.planning import has_plan, planned
from effc.preparation import Sources, prepare
from effc.progress import Progress, no_progress
from effc.recipe import Recipe
from effc.recipe_search import searched
from effc.repair import repaired
from effc.report import report_of
from effc.sensitivity import measure_layers
from effc.tuning import Tuning
from effc.verdict import Verdict, judge, seems_slower

BASELINE, COMPILED = "baseline", "compiled"
ROUNDS = 15


@dataclass
class Compilation:
    """One compile.

    Attributes:
        recipe: What was asked for.
        sources: Objects the caller handed over.
        progress: Called with a stage, the steps done and the steps in all.
        notes: Remarks for the user.
        trials: What was built and evaluated on the way, for the report.
        started: When it began, on the clock of `time.perf_counter`.
        timing: Measured times of layers in number formats, once a plan needs them.
        widths: What is known of every narrower width of an elastic artifact.
        depths: What is known of every smaller depth of one.
    """

    recipe: Recipe
    sources: Sources
    progress: Progress = no_progress
    notes: list[str] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    timing: Timing | None = None
    widths: list[dict[str, Any]] = field(default_factory=list)
    depths: list[dict[str, Any]] = field(default_factory=list)
    _batches: int = 0

    def run(self, out: str | Path) -> Artifact:
        """Compile into `out`, which is replaced only if everything succeeds.

        Raises:
            EffcError: Of the kind that tells what went wrong.
        """
        with replacing(Path(out)) as scratch:
            self.prepared = prepare(self.recipe, self.sources, self.progress, self.notes)
            check_target(self.recipe, self.prepared.target)
            self._open_tuning()
            best = self._tuned(self._best(scratch), scratch)
            verdict = self._judged(best)
            if verdict.problems and not self.recipe.keep_going:
                raise verdict.error(self._keep(best, verdict, Path(out)))
            self.widths = widened(self, best, scratch)
            self.depths = shortened(self, best, scratch)
            self._write(best, verdict, scratch / RESULT)
        return Artifact(out)

    def plan(self) -> list[dict[str, Any]]:
        """Run the passes and build nothing: the rows of the report.

        A size budget is taken for one of the weights: without a build nothing else is known, and
        nothing of latency.

        Raises:
            EffcError: Of the kind that tells what went wrong.
        """
        self.prepared = prepare(self.recipe, self.sources, self.progress, self.notes)
        clean, size = self.prepared.clean, self.prepared.size
        limits = []
        if self.prepared.latency is not None:
            self.notes.append("--max-latency is left out: without a build nothing is measured")
        if size is not None:
            allowed = size.allowed(clean.program.weight_nbytes)
            limits.append(Limit("nbytes", allowed, f"--max-size {self.recipe.max_size}"))
        return [*clean.to_json(), *self.transformed(limits=limits).to_json()]

    def transformed(
        self,
        kept: Sequence[str] = (),
        limits: Sequence[Limit] = (),
        passes: Sequence[Pass] | None = None,
    ) -> PipelineReport:
        """Run the passes (or others) on the clean program, leaving some layers alone, in limits."""
        chosen = self.prepared.passes if passes is None else tuple(passes)
        manager = PassManager(chosen, (CostChange(),))
        clean = self.prepared.clean.program
        report = manager.run(clean, self.prepared.context(kept, limits, self.timing))
        measure_layers(report.to_json(), clean, report.program, self.prepared.inputs)
        return report

    def tried(self, report: PipelineReport, folder: Path, name: str) -> Candidate:
        """Build what the passes made, check it against its program, and evaluate it.

        The baseline gets the default schedules, whatever is known.
        """
        chosen = nothing_chosen if name == BASELINE else self.tuning.chosen
        candidate = self._built(report.program, report.to_json(), folder, name, chosen)
        self.trials.append(
            {"size_nbytes": candidate.size_nbytes, "quality": candidate.quality, "what": name}
        )
        return candidate

    def _built(
        self, program: Program, rows: list[dict[str, Any]], folder: Path, name: str, chosen: Chosen
    ) -> Candidate:
        prepared, stage = self.prepared, f"build {name}"
        folder.mkdir()
        self.progress(stage, 0, 1)
        candidate = build_candidate(name, program, prepared.target, folder, rows, chosen)
        original = prepared.clean.program if candidate.is_changed else None
        check_outputs(candidate, prepared.inputs, original)
        self.progress(stage, 1, 1)
        candidate.scores = self.scores_of(candidate)
        return candidate

    def _open_tuning(self) -> None:
        recipe, prepared = self.prepared.recipe, self.prepared
        self.tuning = Tuning.open(prepared.target, prepared.sizes, recipe.tune, recipe.seed)
        if recipe.elastic:
            self.tuning.untouched = SHARED  # all widths read codes that are packed alike
        self.notes += self.tuning.notes

    def _tuned(self, best: Candidate, scratch: Path) -> Candidate:
        """The result with tuned schedules, known or searched for, if the model as a whole gains."""
        tuning, prepared = self.tuning, self.prepared
        if not (tuning.trials or best.tuned_kernels):
            return best
        plain = tuned = best
        if best.tuned_kernels:
            plain = self._again(best, scratch / "untuned", nothing_chosen)
        if tuning.trials:
            tuning.search(plain, prepared.target, prepared.inputs, scratch, self.progress)
            tuned = self._again(best, scratch / "tuned", tuning.chosen)
        is_faster = tuning.compare(plain, tuned, prepared.inputs, self.progress)
        self.notes += tuning.remarks(tuned if is_faster else plain)
        return tuned if is_faster else plain

    def _again(self, best: Candidate, folder: Path, chosen: Chosen) -> Candidate:
        """A candidate with other schedules."""
        found = self._built(best.program, best.passes, folder, folder.name, chosen)
        found.name = best.name
        return found

    def _best(self, scratch: Path) -> Candidate:
        plain = PipelineReport(self.prepared.clean.program, ())
        self.baseline = self.tried(plain, scratch / BASELINE, BASELINE)
        if self.prepared.recipe.search:
            return searched(self, scratch)
        if has_plan(self):
            return planned(self, scratch)
        report = self.transformed()
        if not report.changed:
            self.notes.append("the passes changed nothing; the result is the baseline")
        first = self.tried(report, scratch / COMPILED, COMPILED)
        return repaired(self, first, report, scratch)

    def resolve(self, passes: str) -> None:
        """Settle on a pipeline, so that the recipe in the artifact repeats the result."""
        recipe = self.prepared.recipe.model_copy(update={"passes": passes, "search": 0})
        self.prepared = replace(self.prepared, recipe=recipe, passes=parse_pipeline(passes))

    def scores_of(self, candidate: Candidate) -> Scores:
        """Task quality, if there is data and a metric, or a function that measures it."""
        prepared, stage = self.prepared, f"evaluate {candidate.name}"
        if self.sources.evaluate is not None:
            return called("quality", self.sources.evaluate, candidate.model)
        if prepared.evaluation is None or prepared.metric is None:
            return {}
        total = self._batches

        def count(done: int) -> None:
            self._batches = max(self._batches, done)
            self.progress(stage, done, total)

        reference = candidate if candidate.name == BASELINE else self.baseline
        scores = quality(
            candidate.model, prepared.evaluation, prepared.metric, reference.model, count
        )
        self.progress(stage, self._batches, self._batches)
        return scores

    def _judged(self, best: Candidate) -> Verdict:
        """Measure, once more if the result seems slower, and compare with baseline and budgets."""
        self.measure(best)
        if seems_slower(best, self.baseline):
            self.measure(best, 2 * ROUNDS)
        for candidate in (self.baseline, best):
            candidate.start = start_of(candidate, self.prepared.inputs)
        return judge(best, self.baseline, self.prepared)

    def measure(self, best: Candidate, rounds: int = ROUNDS) -> None:
        """Measure the latency of a candidate and of the baseline, in turns."""
        candidates = {c.name: c for c in (self.baseline, best)}
        inputs = self.prepared.inputs
        calls = {n: (lambda model=c.model: model.run(inputs)) for n, c in candidates.items()}
        latencies = interleaved(
            calls, rounds, lambda done, total: self.progress("measure", done, total)
        )
        for name, candidate in candidates.items():
            candidate.latency = latencies[name]

    def _keep(self, best: Candidate, verdict: Verdict, out: Path) -> str:
        """Keep a result that missed its budgets beside the output folder; say where."""
        kept = out.with_name(f"{out.name}-candidate")
        try:
            with replacing(kept) as scratch:
                self._write(best, verdict, scratch / RESULT)
        except UsageError as error:
            return f"the best candidate cannot be kept: {error}"
        return f"the best candidate is kept in {kept}"

    def _write(self, best: Candidate, verdict: Verdict, folder: Path) -> None:
        self.progress("write", 0, 1)
        report = report_of(self, best, verdict)
        for candidate in (self.baseline, best):
            candidate.model.close()
        write_artifact(folder, report, self.prepared.recipe, self.prepared.inputs, best)
        self.progress("write", 1, 1)
