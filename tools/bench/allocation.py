"""Which layers take which bits, by every metric and solver, beside heuristics.

For every model of the zoo and three budgets on the average bits of a weight, each metric plans
formats of 2 to 8 bits with the integer program, and further solvers plan by one of them. What is
measured is the divergence of the outputs from those in float and the quality of the task, on held
out data, with the chosen weights rounded (weights only, groups of 32). Uniform, first-and-last and
random choices, which look at no sensitivity, stand beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table

from effc.ir.data import open_data
from effc.ir.errors import BudgetError
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.bits.allocation import Offer, average
from effc.passes.bits.forms import Form
from effc.passes.bits.layers import Wanted, select
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.registry import METRICS, sensitivities
from effc.passes.bits.metrics.running import restored, with_forms, with_weights
from effc.passes.bits.metrics.study import Study
from effc.passes.plan.model import Infeasible, Problem
from effc.passes.plan.solver import solve
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.tables import table
from zoo.language_model import negative_log_likelihood

SECTION, TITLE = "allocation", "metrics and solvers"
DIGITS, LANGUAGE = ("residual_cnn", "depthwise_cnn", "vit"), "language_model"
MODELS = (*DIGITS, LANGUAGE)
IMAGES = "x:float32[batch=1..64,1,16,16]"
TOKENS = "input_ids:int64[batch=1..8,length=2..512]"
ROWS, LENGTH = 4, 128  # of a batch of text: sensitivities need little of it
SAMPLE_BATCHES, TEST_BATCHES = 8, 2
BUDGETS = (2.5, 3.0, 4.0)
GROUP = 32
FORMS = tuple(Form.parse(str(bits), GROUP) for bits in (8, 6, 5, 4, 3, 2))
HEURISTICS = ("uniform", "first-last", "random")
DRAWS = 5
LEFT_OUT = {  # needs labels; needs a second derivative per layer and step
    **dict.fromkeys(DIGITS, ("task-drop",)),
    LANGUAGE: ("task-drop", "hessian-eigenvalue"),
}
SOLVER, OTHERS = "ilp", ("greedy", "pareto", *HEURISTICS)
COMPARED = AllocateBits().metric
LEAST = 1e-12
Row = dict[str, Any]
Way = tuple[str | None, str]
Run = Callable[[tuple[torch.Tensor, ...]], list[torch.Tensor]]


@dataclass
class Subject:
    """A model of the zoo with what judges a choice of formats.

    Attributes:
        name: In the zoo.
        study: On the calibration data.
        test: Inputs and labels of held out data, with the outputs in float.
    """

    name: str
    study: Study
    test: list[tuple[tuple[torch.Tensor, ...], np.ndarray, list[torch.Tensor]]]

    @classmethod
    def of(cls, name: str, test_batches: int | None = TEST_BATCHES) -> "Subject":
        """Open a model and its data; of text so many batches to judge by, or all."""
        is_text = name == LANGUAGE
        source, batches = (LANGUAGE, SAMPLE_BATCHES) if is_text else ("digits", None)
        opened = open_model(f"zoo.{source}:{name}", inputs=[TOKENS if is_text else IMAGES])
        program = cleaned(opened, no_progress).program
        signature, symbols = program.signature, program.symbols
        data = islice(open_data(f"zoo.{source}:calibration", signature, symbols), batches)
        ctx = PassContext(calibration=[_cut(inputs) if is_text else inputs for inputs, _ in data])
        layers = select(program, "forward", ctx, Wanted()).layers
        study = Study(program, parts_of(program, layers), ctx)
        test = []
        for inputs, labels in islice(
            open_data(f"zoo.{source}:evaluation", signature, symbols),
            test_batches if is_text else None,
        ):
            tensors = tuple(torch.from_numpy(inputs[spec.name]) for spec in signature.inputs)
            test.append((tensors, np.asarray(labels), with_forms(program.forward, {}, tensors)))
        return cls(name, study, test)

    def judged(self, forms: dict[Part, Form]) -> tuple[float, float]:
        """Divergence, and accuracy or perplexity, on held out data."""
        divergence, found = self.scored(forms)
        mean = float(found.mean())
        return divergence, float(np.exp(mean)) if self.name == LANGUAGE else mean

    def scored(self, forms: dict[Part, Form]) -> tuple[float, np.ndarray]:
        """Divergence, and of every label whether it was found, or its negative log likelihood."""
        module, weights = self.study.program.forward, restored(forms)
        return self.scored_by(lambda inputs: with_weights(module, forms, weights, inputs))

    def scored_by(self, run: Run) -> tuple[float, np.ndarray]:
        """The same of anything that makes outputs of inputs."""
        divergences, scores = [], []
        for inputs, labels, expected in self.test:
            found = run(inputs)
            divergences.append(float(self.study.divergence(expected, found)) * len(labels))
            if self.name == LANGUAGE:
                scores.append(negative_log_likelihood(found[0].numpy(), labels))
            else:
                scores.append(found[0].argmax(-1).numpy() == labels)
        count = sum(len(labels) for _, labels, _ in self.test)
        return sum(divergences) / count, np.concatenate(scores)


def _cut(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[:ROWS, :LENGTH].copy() for name, value in inputs.items()}


def problem_of(subject: Subject, metric: str) -> Problem:
    """All parts with all formats, their losses by a metric; no limits."""
    losses = sensitivities(subject.study, metric, FORMS)
    offers = [
        Offer(part, dict(zip(FORMS, losses[part.name], strict=True)), metric)
        for part in subject.study.parts
    ]
    program, ctx = subject.study.program, subject.study.ctx
    return Problem(tuple(offer.unit(offer.work(program, ctx)) for offer in offers))


def chosen(subject: Subject, problem: Problem, solver: str, bits: float) -> Iterator[Row]:
    """What a solver's choices for an average of bits lose; a drawing one draws several times.

    Raises:
        BudgetError: If no choice has so few bits.
    """
    limit = average(bits, list(subject.study.parts))
    known = {str(form): form for form in FORMS}
    for seed in range(DRAWS if solver == "random" else 1):
        rng = np.random.default_rng(seed)
        answer = solve(Problem(problem.units, (limit,)), solver, rng)
        if isinstance(answer, Infeasible):
            raise BudgetError(f"{subject.name}: {answer}")
        forms = {part: known[answer.choices[part.name]] for part in subject.study.parts}
        divergence, quality = subject.judged(forms)
        facts = {"model": subject.name, "solver": solver, "average_bits": bits, "peer": None}
        yield {
            **facts,
            "what": "divergence",
            "value": divergence,
            "unit": "nats",
            "better": "lower",
        }
        what, better = quality_of(subject.name)
        yield {**facts, "what": what, "value": quality, "unit": "1", "better": better}


def quality_of(model: str) -> tuple[str, str]:
    """What a model's task is judged by, and which is better."""
    return ("perplexity", "lower") if model == LANGUAGE else ("accuracy", "higher")


def measured(subject: Subject, progress: Progress) -> Iterator[Row]:
    """Every metric with the integer program, other solvers by one metric, and the heuristics."""
    metrics = [name for name in METRICS if name not in LEFT_OUT[subject.name]]
    task = progress.add_task(subject.name, total=len(metrics))
    for metric in metrics:
        problem = problem_of(subject, metric)
        solvers = [SOLVER, *(OTHERS if metric == COMPARED else ())]
        for solver in solvers:
            for bits in BUDGETS:
                for row in chosen(subject, problem, solver, bits):
                    is_blind = solver in HEURISTICS
                    yield {**row, "metric": None if is_blind else metric}
        progress.advance(task)


def rows_of(progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
    """Measure some models, or all."""
    for name in wanted or MODELS:
        for row in measured(Subject.of(name), progress):
            yield {**row, "section": SECTION}


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """A table per model."""
    return [page_table(rows, name) for name in known_models(rows)]


ABOUT = (
    f"Weights only, rounded to nearest in groups of {GROUP}, 2 to 8 bits; activations stay in "
    "float. Divergence (nats) is from the outputs in float; both numbers are on held out data, in "
    f"PyTorch. `random` is the mean of {DRAWS} draws. Rows are in order of the mean logarithm of "
    "the divergence."
)


def known_models(rows: Sequence[Row]) -> list[str]:
    """The models that rows are about, in the zoo's order."""
    return [name for name in MODELS if any(row["model"] == name for row in rows)]


def page_table(rows: Sequence[Row], model: str) -> Table:
    """Divergence and accuracy of every way to choose, at every budget."""
    columns = [f"{bits:g} bits" for bits in BUDGETS]
    what, _ = quality_of(model)
    made = table(f"{model}: divergence, {what}", "metric", "solver", *columns, numbers=columns)
    own = [row for row in rows if row["model"] == model]
    ways = list(dict.fromkeys((row["metric"], row["solver"]) for row in own))
    for metric, solver in sorted(ways, key=lambda way: mean_log(own, way)):
        cells = [
            f"{value_of(own, (metric, solver), bits, 'divergence'):.2g}, "
            + (f"{value:.3f}" if what == "perplexity" else f"{value:.1%}")
            for bits in BUDGETS
            for value in (value_of(own, (metric, solver), bits, what),)
        ]
        made.add_row(metric or "none", solver, *cells)
    return made


def value_of(rows: Sequence[Row], way: Way, bits: float, what: str) -> float:
    """Mean of what was measured of one way to choose."""
    return float(np.mean([
        row["value"] for row in rows
        if (row["metric"], row["solver"]) == way
        and (row["average_bits"], row["what"]) == (bits, what)
    ]))  # fmt: skip


def mean_log(rows: Sequence[Row], way: Way) -> float:
    """Mean over the budgets of the logarithm of the divergence."""
    found = [value_of(rows, way, bits, "divergence") for bits in BUDGETS]
    return float(np.mean(np.log(np.maximum(found, LEAST))))


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """Per model and budget, how the default metric compares with the best heuristic."""
    for model in known_models(rows):
        own = [row for row in rows if row["model"] == model]
        for bits in BUDGETS:
            plan = value_of(own, (COMPARED, SOLVER), bits, "divergence")
            blind = {name: value_of(own, (None, name), bits, "divergence") for name in HEURISTICS}
            best = min(blind, key=lambda name: blind[name])
            verdict = "beats" if plan < blind[best] else "loses to"
            yield (
                f"{model}, {bits:g} bits: {COMPARED} with {SOLVER} ({plan:.3g}) {verdict} the best "
                f"heuristic, {best} ({blind[best]:.3g})"
            )
