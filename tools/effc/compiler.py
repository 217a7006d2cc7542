"""The whole way from a model to an artifact, step by step."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from effc.artifact import Artifact, write_extras
from effc.backends.artifact import replacing
from effc.backends.base import backend_of
from effc.backends.measure import interleaved
from effc.backends.runner import Model
from effc.budgets import DropBudget, SizeBudget
from effc.candidate import Candidate, build_candidate, check_outputs
from effc.ir import options
from effc.ir.data import Data, open_data
from effc.ir.errors import UnsupportedError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.trace import open_model
from effc.metrics import Metric, metric_of, quality
from effc.passes.base import Pass, PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.instruments import CostChange
from effc.passes.manager import PassManager
from effc.passes.registry import parse_pipeline, pipeline_text
from effc.passes.report import PipelineReport
from effc.recipe import Recipe
from effc.repair import repaired
from effc.report import report_of
from effc.sample import sample_inputs, sample_sizes
from effc.verdict import Verdict, judge

Progress = Callable[[str, int, int], None]
STORE = "store"


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass
class Sources:
    """What a caller hands over as objects instead of names.

    Attributes:
        model: A module, program, exported program, path or reference.
        example_inputs: For modules.
        calibration: Data as an iterable, or None to take the recipe's.
        evaluation: Data as an iterable, or None to take the recipe's.
        metric: A function, or None to take the recipe's.
        evaluate: Task quality of a loaded model, larger is better; instead of data and a metric.
        passes: Instances, or None to take the recipe's.
    """

    model: Any
    example_inputs: Any = None
    calibration: Any = None
    evaluation: Any = None
    metric: Any = None
    evaluate: Callable[[Model], float] | None = None
    passes: Sequence[Pass] | None = None


@dataclass
class Compilation:
    """One compile.

    Attributes:
        recipe: What was asked for.
        sources: Objects the caller handed over.
        progress: Called with a stage, the steps done and the steps in all.
        notes: Remarks for the user.
    """

    recipe: Recipe
    sources: Sources
    progress: Progress = no_progress
    notes: list[str] = field(default_factory=list)

    def run(self, out: str | Path) -> Artifact:
        """Compile into `out`, which is replaced only if everything succeeds.

        Raises:
            EffcError: Of the kind that tells what went wrong.
        """
        self.started = time.monotonic()
        self.out = Path(out).absolute()
        with ExitStack() as stack:
            folder = stack.enter_context(replacing(self.out))
            self.prepare()
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="effc-")))
            best, verdict = self._compile(folder / "artifact", work)
            self._finish(best, verdict, folder)
        return Artifact(Path(out))

    def prepare(self) -> None:
        """Read and check everything that can be wrong before any work is done."""
        recipe = self.recipe
        self.target = Target.parse(recipe.target)
        if recipe.threads:
            self.target = replace(self.target, cores=recipe.threads)
        self.passes = self._passes()
        self.drop = DropBudget.parse(recipe.max_drop) if recipe.max_drop else None
        self.size = SizeBudget.parse(recipe.max_size) if recipe.max_size else None
        self.metric = self._metric()
        self.progress("trace", 0, 1)
        original = open_model(
            self.sources.model,
            inputs=recipe.inputs,
            example_inputs=self.sources.example_inputs,
            trust_pickle=recipe.trust_pickle,
            notes=self.notes,
        )
        self.progress("trace", 1, 1)
        self.calibration = self._data(original, self.sources.calibration or recipe.calib)
        self.evaluation = self._data(original, self.sources.evaluation or recipe.eval)
        self.clean = PassManager.parse(CLEAN).run(original, self._context())
        missing = backend_of(self.target.backend).unsupported(self.clean.program, self.target)
        if missing:
            raise UnsupportedError(f"target {self.target}", missing)
        sizes = sample_sizes(self.clean.program, recipe.sizes)
        self.sizes = sizes
        self.inputs: dict[str, np.ndarray] = sample_inputs(
            self.clean.program, sizes, self.evaluation or self.calibration
        )

    def transformed(self, exclude: Sequence[str] = ()) -> PipelineReport:
        """Run the passes on the clean program, leaving out some more layers."""
        context = self._context()
        context.exclude = (*context.exclude, *exclude)
        manager = PassManager(self.passes, (CostChange(),))
        return manager.run(self.clean.program, context)

    def build(self, report: PipelineReport, folder: Path, name: str) -> Candidate:
        """Build and check what the passes made, and evaluate it."""
        folder.mkdir(parents=True)
        self.progress(f"build {name}", 0, 1)
        candidate = build_candidate(name, report.program, self.target, folder, report.to_json())
        original = self.clean.program if report.changed else None
        check_outputs(candidate, self.inputs, original)
        self.progress(f"build {name}", 1, 1)
        return candidate

    def evaluate(self, candidate: Candidate, baseline: Candidate) -> None:
        """Measure task quality, if there is data and a metric, or a function that does it."""
        if self.sources.evaluate is not None:
            candidate.quality = float(self.sources.evaluate(candidate.model))
        elif self.evaluation is None or self.metric is None:
            return
        else:
            stage, count = f"evaluate {candidate.name}", sum(1 for _ in self.evaluation)
            candidate.quality = quality(
                candidate.model,
                self.evaluation,
                self.metric,
                baseline.model,
                lambda done: self.progress(stage, done, count),
            )

    def _compile(self, folder: Path, work: Path) -> tuple[Candidate, Verdict]:
        plain = PipelineReport(self.clean.program, ())
        self.baseline = self.build(plain, work / "baseline", "float32 baseline")
        self.evaluate(self.baseline, self.baseline)
        report = self.transformed()
        if not report.changed:
            self.notes.append("the passes changed nothing; the result is the baseline")
        best = self.build(report, work / "candidate", "compiled")
        self.evaluate(best, self.baseline)
        if self.drop is not None:
            best = repaired(self, best, report, work)
        self._measure(best)
        verdict = judge(best, self.baseline, self.drop, self.size, self.metric)
        if verdict.problems and not self.recipe.keep_going:
            raise verdict.error(self._keep(best, verdict))
        shutil.copytree(best.folder, folder)
        return best, verdict

    def _measure(self, best: Candidate) -> None:
        candidates = {c.name: c for c in (self.baseline, best)}
        calls = {
            name: (lambda model=c.model: model.run(self.inputs)) for name, c in candidates.items()
        }
        latencies = interleaved(
            calls, progress=lambda done, total: self.progress("measure", done, total)
        )
        for name, candidate in candidates.items():
            candidate.latency = latencies[name]

    def _keep(self, best: Candidate, verdict: Verdict) -> Path:
        """Keep a result that missed its budgets beside the output folder."""
        kept = self.out.with_name(f"{self.out.name}-candidate")
        with replacing(kept) as folder:
            shutil.copytree(best.folder, folder / "artifact")
            self._finish(best, verdict, folder)
        return kept

    def _finish(self, best: Candidate, verdict: Verdict, folder: Path) -> None:
        """Move the build up and write what goes with it."""
        for path in (folder / "artifact").iterdir():
            shutil.move(path, folder / path.name)
        (folder / "artifact").rmdir()
        report = report_of(self, best, verdict)
        write_extras(folder, report, self.recipe, self.inputs, best)

    def _passes(self) -> tuple[Pass, ...]:
        if self.sources.passes is not None:
            self.recipe = self.recipe.model_copy(
                update={"passes": pipeline_text(tuple(self.sources.passes))}
            )
            return tuple(self.sources.passes)
        return parse_pipeline(self.recipe.passes)

    def _metric(self) -> Metric | None:
        chosen = self.sources.metric or self.recipe.metric
        if self.sources.evaluate is not None:
            return Metric("quality", lambda results: 0.0)
        has_data = self.sources.evaluation is not None or self.recipe.eval is not None
        if has_data and chosen is None:
            chosen = "cosine"
            self.notes.append("no --metric given: cosine similarity with the baseline is used")
        if not has_data and (self.recipe.max_drop or chosen):
            raise UsageError("--max-drop and --metric need evaluation data: give --eval")
        return metric_of(chosen) if chosen is not None else None

    def _data(self, program: Program, spec: Any) -> Data | None:
        if spec is None:
            return None
        tokenizer = self.recipe.tokenizer
        model = self.sources.model
        if tokenizer is None and isinstance(model, str | Path) and Path(model).is_dir():
            tokenizer = str(model)
        return open_data(spec, program.signature, program.symbols, tokenizer=tokenizer)

    def _context(self) -> PassContext:
        store = options.cache_folder() / STORE if self.recipe.resume else None
        return PassContext(
            target=self.target,
            calibration=self.calibration if hasattr(self, "calibration") else None,
            seed=self.recipe.seed,
            store=store,
            exclude=tuple(self.recipe.exclude),
            rules=self.recipe.rules,
            progress=self.progress,
        )
