"""Everything a compile reads and checks before it does any work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from effc.backends.runner import Model
from effc.budgets import DropBudget, LatencyBudget, SizeBudget
from effc.evaluation import EagerModel
from effc.ir import options
from effc.ir.data import Data, open_data
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.provenance import label
from effc.ir.target import Target
from effc.ir.trace import open_model
from effc.metrics import Metric, metric_of, quality
from effc.passes.base import Pass, PassContext, check_patterns, check_rules
from effc.passes.bits.bfloat16 import attention_names
from effc.passes.bits.layers import layer_names
from effc.passes.calibrate.synthetic import Synthetic, synthesised
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager
from effc.passes.plan.model import Limit
from effc.passes.plan.timing import Timing
from effc.passes.registry import parse_pipeline, pipeline_text
from effc.passes.report import PipelineReport
from effc.progress import Progress
from effc.recipe import DEFAULT_PASSES, Recipe
from effc.sample import sample_inputs, sample_sizes

STORE = "store"
ELASTIC_PASSES = "quantize-weights{bits=8}"
MANAGER_STAGE = "passes"


@dataclass(frozen=True)
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

    def objects(self) -> list[str]:
        """The settings that are objects, which a recipe cannot hold."""
        named = {
            "model": self.model,
            "calib": self.calibration,
            "eval": self.evaluation,
            "metric": self.metric,
            "evaluate": self.evaluate,
        }
        return [name for name, one in named.items() if not isinstance(one, str | Path | None)]


@dataclass(frozen=True)
class Prepared:
    """A compile that can begin.

    Attributes:
        recipe: What was asked for, resolved.
        target: What to build for.
        passes: The pipeline after the clean passes.
        drop: The quality budget.
        size: The size budget.
        latency: The latency budget.
        metric: How quality is measured.
        calibration: Batches of inputs.
        evaluation: Batches of inputs with labels.
        traced: The program before any pass.
        clean: The program after the clean passes.
        sizes: A value for every symbolic dimension.
        inputs: Sample inputs of those sizes.
        progress: Called with a stage, the steps done and the steps in all.
    """

    recipe: Recipe
    target: Target
    passes: tuple[Pass, ...]
    drop: DropBudget | None
    size: SizeBudget | None
    latency: LatencyBudget | None
    metric: Metric | None
    calibration: Data | None
    evaluation: Data | None
    traced: Program
    clean: PipelineReport
    sizes: dict[str, int]
    inputs: dict[str, np.ndarray]
    progress: Progress

    def context(
        self,
        kept: Sequence[str] = (),
        limits: Sequence[Limit] = (),
        timing: Timing | None = None,
    ) -> PassContext:
        """What the passes get; `kept` names layers to leave alone, plans keep `limits`."""
        recipe = self.recipe
        return PassContext(
            target=self.target,
            calibration=self.calibration,
            substitute=self._substitute,
            seed=recipe.seed,
            store=options.cache_folder() / STORE if recipe.resume else None,
            exclude=tuple(recipe.exclude),
            rules=recipe.rules,
            kept=tuple(kept),
            limits=tuple(limits),
            sizes=self.sizes,
            timing=timing,
            evaluate=self._task_quality(),
            progress=one_stage("passes", self.passes, self.progress),
        )

    def _substitute(self) -> Synthetic:
        """Data made from the model as it was traced."""
        recipe = self.recipe
        store = options.cache_folder() / STORE if recipe.resume else None
        ctx = PassContext(seed=recipe.seed, store=store, progress=self.progress)
        return synthesised(self.traced, ctx)

    def _task_quality(self) -> Callable[[Program], float] | None:
        """Task quality of a program in PyTorch, larger is better; None without evaluation data."""
        data, metric, clean = self.evaluation, self.metric, self.clean.program
        if data is None or metric is None:
            return None
        sign = 1.0 if metric.better == "higher" else -1.0

        def measured(program: Program) -> float:
            scores = quality(EagerModel(program), data, metric, EagerModel(clean))
            return sign * next(iter(scores.values()))

        return measured


def prepare(recipe: Recipe, sources: Sources, progress: Progress, notes: list[str]) -> Prepared:
    """Read and check everything that can be wrong before any work is done.

    Args:
        recipe: What was asked for.
        sources: Objects the caller handed over.
        progress: Called with a stage, the steps done and the steps in all.
        notes: Receives remarks for the user.

    Raises:
        EffcError: Of the kind that tells what is wrong.
    """
    target = Target.parse(recipe.target)
    if recipe.threads:
        target = replace(target, cores=recipe.threads)
    if recipe.elastic and recipe.passes == DEFAULT_PASSES:
        recipe = recipe.model_copy(update={"passes": ELASTIC_PASSES})
    if recipe.search and (recipe.passes != DEFAULT_PASSES or sources.passes is not None):
        raise UsageError("--search chooses the pipeline: leave --passes out")
    passes = parse_pipeline(recipe.passes) if sources.passes is None else tuple(sources.passes)
    check_rules(passes, recipe.rules)
    drop = DropBudget.parse(recipe.max_drop) if recipe.max_drop else None
    size = SizeBudget.parse(recipe.max_size) if recipe.max_size else None
    latency = LatencyBudget.parse(recipe.max_latency) if recipe.max_latency else None
    metric = _metric(recipe, sources, notes)
    program = _opened(recipe, sources, progress, notes)
    calibration = _data(program, recipe, sources.calibration, recipe.calib)
    evaluation = _data(program, recipe, sources.evaluation, recipe.eval)
    clean = cleaned(program, progress)
    check_names(clean.program, recipe)
    sizes = sample_sizes(clean.program, recipe.sizes)
    inputs = sample_inputs(clean.program, sizes, evaluation or calibration)
    resolved = recipe.anchored().model_copy(
        update={"passes": pipeline_text(passes), "objects": sources.objects()}
    )
    return Prepared(
        resolved, target, passes, drop, size, latency, metric, calibration, evaluation, program,
        clean, sizes, inputs, progress,
    )  # fmt: skip


def check_names(program: Program, recipe: Recipe) -> None:
    """Make sure that every pattern of names matches something, whatever the passes make of it.

    Raises:
        UsageError: Naming the first pattern that matches nothing and some of the layers there are.
    """
    nodes = (node for module in program.methods.values() for node in module.graph.nodes)
    names = {label(node) for node in nodes if node.op == "call_function"}
    unmatched = PassContext(
        exclude=tuple(p for p in recipe.exclude if not any(fnmatchcase(n, p) for n in names)),
        rules=tuple(r for r in recipe.rules if not any(fnmatchcase(n, r[0]) for n in names)),
    )
    check_patterns(unmatched, [*layer_names(program), *attention_names(program)])


def cleaned(program: Program, progress: Progress) -> PipelineReport:
    """Run the clean passes every compile starts with."""
    manager = PassManager.parse(CLEAN)
    context = PassContext(progress=one_stage("clean passes", manager.passes, progress))
    return manager.run(program, context)


def one_stage(label: str, passes: Sequence[Pass], progress: Progress) -> Progress:
    """Show a pipeline as one stage; what a pass itself reports stays a stage of its own."""
    names = {MANAGER_STAGE, *(step.name for step in passes)}
    return lambda stage, done, total: progress(label if stage in names else stage, done, total)


def _opened(recipe: Recipe, sources: Sources, progress: Progress, notes: list[str]) -> Program:
    progress("read model", 0, 1)
    program = open_model(
        sources.model,
        inputs=recipe.inputs,
        example_inputs=sources.example_inputs,
        trust_pickle=recipe.trust_pickle,
        notes=notes,
    )
    progress("read model", 1, 1)
    return program


def _metric(recipe: Recipe, sources: Sources, notes: list[str]) -> Metric | None:
    if sources.evaluate is not None:
        return Metric("quality", lambda results: 0.0)
    chosen = sources.metric or recipe.metric
    has_data = sources.evaluation is not None or recipe.eval is not None
    if not has_data and (recipe.max_drop or chosen):
        raise UsageError("--max-drop and --metric need evaluation data; give it with --eval")
    if has_data and chosen is None:
        chosen = "cosine"
        notes.append("no --metric given: cosine similarity with the baseline is used")
    metric = metric_of(chosen) if chosen is not None else None
    if metric is not None and metric.name == "sqnr" and recipe.max_drop:
        raise UsageError("--max-drop needs a metric the baseline has a finite value of, not sqnr")
    return metric


def _data(program: Program, recipe: Recipe, given: Any, named: str | None) -> Data | None:
    spec = named if given is None else given
    if spec is None:
        return None
    tokenizer = recipe.tokenizer
    if tokenizer is None and recipe.model and Path(recipe.model).is_dir():
        tokenizer = recipe.model
    return open_data(spec, program.signature, program.symbols, tokenizer=tokenizer)
