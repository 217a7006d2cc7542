"""`make bench-bits`: which layers take which bits, by every metric and solver, beside heuristics.

For every digits model of the zoo and three budgets on the average bits of a weight, each metric
plans formats of 2 to 8 bits with the integer program, and further solvers plan by one of them. What
is measured is the divergence of the outputs from those in float and the accuracy, on the test
split, with the chosen weights rounded (weights only, groups of 32). Uniform, first-and-last and
random choices, which look at no sensitivity, stand beside them.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from effc.environment import environment
from effc.ir.data import open_data
from effc.ir.errors import BudgetError
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.bits.allocation import Offer, average
from effc.passes.bits.forms import Form
from effc.passes.bits.layers import Wanted, select
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.registry import METRICS, sensitivities
from effc.passes.bits.metrics.running import with_forms
from effc.passes.bits.metrics.study import Study
from effc.passes.plan.model import Infeasible, Problem
from effc.passes.plan.solver import solve
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.tables import render, table

RESULT, PAGE = Path("bench/bits.json"), Path("docs/bits.md")
MODELS = ("residual_cnn", "depthwise_cnn", "vit")
INPUT = "x:float32[batch=1..64,1,16,16]"
BUDGETS = (2.5, 3.0, 4.0)
GROUP = 32
FORMS = tuple(Form.parse(str(bits), GROUP) for bits in (8, 6, 5, 4, 3, 2))
HEURISTICS = ("uniform", "first-last", "random")
DRAWS = 5
COMMAND = "make bench-bits"
NEEDS_LABELS = ("task-drop",)
SOLVER, OTHERS = "ilp", ("greedy", "pareto", *HEURISTICS)
COMPARED = "output-divergence"
LEAST, WIDTH = 1e-12, 100
Row = dict[str, Any]
Way = tuple[str | None, str]


@dataclass
class Subject:
    """A model of the zoo with what judges a choice of formats.

    Attributes:
        name: In the zoo.
        study: On the calibration data.
        test: Inputs and labels of the test split, with the outputs in float.
    """

    name: str
    study: Study
    test: list[tuple[tuple[torch.Tensor, ...], np.ndarray, list[torch.Tensor]]]

    @classmethod
    def of(cls, name: str) -> "Subject":
        """Open a model and its data."""
        opened = open_model(f"zoo.digits:{name}", inputs=[INPUT])
        program = cleaned(opened, no_progress).program
        signature, symbols = program.signature, program.symbols
        data = open_data("zoo.digits:calibration", signature, symbols)
        ctx = PassContext(calibration=[inputs for inputs, _ in data])
        layers = select(program, "forward", ctx, Wanted()).layers
        study = Study(program, parts_of(program, layers), ctx)
        test = []
        for inputs, labels in open_data("zoo.digits:evaluation", signature, symbols):
            tensors = tuple(torch.from_numpy(inputs[spec.name]) for spec in signature.inputs)
            test.append((tensors, np.asarray(labels), with_forms(program.forward, {}, tensors)))
        return cls(name, study, test)

    def judged(self, forms: dict[Part, Form]) -> tuple[float, float]:
        """Divergence and accuracy on the test split."""
        divergences, hits = [], []
        for inputs, labels, expected in self.test:
            found = with_forms(self.study.program.forward, forms, inputs)
            divergences.append(float(self.study.divergence(expected, found)) * len(labels))
            hits.append(found[0].argmax(-1).numpy() == labels)
        count = sum(len(hit) for hit in hits)
        return sum(divergences) / count, float(np.concatenate(hits).mean())


def problem_of(subject: Subject, metric: str) -> Problem:
    """All parts with all formats, their losses by a metric; no limits."""
    losses = sensitivities(subject.study, metric, FORMS)
    offers = [
        Offer(part, dict(zip(FORMS, losses[part.name], strict=True)), metric)
        for part in subject.study.parts
    ]
    return Problem(tuple(offer.unit(subject.study.program, subject.study.ctx) for offer in offers))


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
        divergence, accuracy = subject.judged(forms)
        facts = {"model": subject.name, "solver": solver, "average_bits": bits, "peer": None}
        yield {
            **facts,
            "what": "divergence",
            "value": divergence,
            "unit": "nats",
            "better": "lower",
        }
        yield {**facts, "what": "accuracy", "value": accuracy, "unit": "1", "better": "higher"}


def measured(subject: Subject, progress: Progress) -> Iterator[Row]:
    """Every metric with the integer program, other solvers by one metric, and the heuristics."""
    metrics = [name for name in METRICS if name not in NEEDS_LABELS]
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


def main() -> int:
    """Measure the models named, or all, write the JSON and the page.

    Rows of a model that is measured again replace its earlier ones.
    """
    wanted = sys.argv[1:] or MODELS
    rows: list[Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    RESULT.parent.mkdir(exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        for name in wanted:
            found = list(measured(Subject.of(name), progress))
            rows = [*(row for row in rows if row["model"] != name), *found]
            record = {"environment": environment(), "rows": rows}
            RESULT.write_text(json.dumps(record, indent=1) + "\n")
    tables = [page_table(rows, name) for name in known_models(rows)]
    lines = list(verdicts(rows))
    write_page(tables, lines)
    Console(width=110, highlight=False).print(*tables, *lines, sep="\n")
    return 0


def known_models(rows: Sequence[Row]) -> list[str]:
    """The models that rows are about, in the zoo's order."""
    return [name for name in MODELS if any(row["model"] == name for row in rows)]


def page_table(rows: Sequence[Row], model: str) -> Table:
    """Divergence and accuracy of every way to choose, at every budget."""
    columns = [f"{bits:g} bits" for bits in BUDGETS]
    made = table(f"{model}: divergence, accuracy", "metric", "solver", *columns, numbers=columns)
    own = [row for row in rows if row["model"] == model]
    ways = list(dict.fromkeys((row["metric"], row["solver"]) for row in own))
    for metric, solver in sorted(ways, key=lambda way: mean_log(own, way)):
        cells = [
            f"{value_of(own, (metric, solver), bits, 'divergence'):.2g}, "
            f"{value_of(own, (metric, solver), bits, 'accuracy'):.1%}"
            for bits in BUDGETS
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


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
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


def write_page(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Write `docs/bits.md`."""
    cpu = environment()["cpu"]
    listing = "\n".join(f"- {line}" for line in lines)
    PAGE.write_text(
        f"# Bit allocation\n\n`{COMMAND}` on {cpu}. Weights only, rounded to nearest in groups of "
        f"{GROUP}, 2 to 8 bits; activations stay in float. Divergence (nats) is from the outputs "
        "in float; both numbers are on the test split, in PyTorch. `random` is the mean of "
        f"{DRAWS} draws. Rows are in order of the mean logarithm of the divergence.\n\n"
        f"```\n{render(tables, WIDTH).rstrip()}\n```\n\n{listing}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
