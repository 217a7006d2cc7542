"""The language model's weights in fewer and fewer bits: one width for all, or one per layer.

At the bytes of every uniform width a plan mixes widths by the default metric. NNCF's compression of
weights to 4 and 8 bits by a sensitivity metric stands beside plans of the same bytes.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table

from bench.allocation import GROUP, LANGUAGE, SOLVER, Subject
from effc.ir.errors import BudgetError
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.bits.allocation import Offer
from effc.passes.bits.forms import FLOAT, Form
from effc.passes.bits.metrics.registry import sensitivities
from effc.passes.bits.refining import Measurement, refined_plan
from effc.passes.plan.model import Infeasible, Limit, Problem
from effc.passes.plan.solver import solve
from effc.tables import table
from effc.units import size_text
from zoo.language_model import language_model

SECTION, TITLE = "front", "mixed and uniform"
MODELS = (LANGUAGE,)
METRIC, ROUNDS = AllocateBits().metric, 2
FORMS = tuple(Form.parse(f"w{bits}a32g{GROUP}") for bits in (8, 6, 5, 4, 3, 2))
BETWEEN = (0.25, 0.5, 0.75)  # of the way from one uniform size to the next, from 3 to 4 bits
RATIOS = (1.0, 0.8, 0.5)
VERDICTS = {1: "beats", 0: "equals", -1: "loses to"}
UNIFORM, MIXED, NNCF = "uniform", "mixed", "NNCF"
Row = dict[str, Any]
ABOUT = (
    f"All weights of the zoo's language model in groups of {GROUP}, rounded to nearest, "
    "activations in float; bytes of codes and scales, perplexity on held out text, in PyTorch. A "
    f"plan chooses of 2, 3, 4, 5, 6 and 8 bits by {METRIC}, then by {ROUNDS} rounds of measured "
    "exchanges on training text; NNCF chooses of 4 and 8 bits, on the same data, by its own "
    "sensitivity (max_activation_variance; all in 4 bits at ratio 1). Cells hold perplexity and "
    "divergence in nats; differences are in nats a byte, with their standard error."
)


@dataclass(frozen=True)
class Scored:
    """One way at one size, judged.

    Attributes:
        way: Which.
        label: Of its setting.
        nbytes: Of codes and scales.
        divergence: From the outputs in float, in nats.
        losses: Negative log likelihood of every byte: float64 [bytes].
    """

    way: str
    label: str
    nbytes: int
    divergence: float
    losses: np.ndarray

    def row(self, limit: int) -> Row:
        """What is kept of it."""
        return {
            "section": SECTION, "model": LANGUAGE, "what": "perplexity", "unit": "1",
            "value": float(np.exp(self.losses.mean())), "better": "lower", "way": self.way,
            "label": self.label, "nbytes": self.nbytes, "limit": limit,
            "divergence": self.divergence, "peer": NNCF if self.way == NNCF else None,
        }  # fmt: skip

    def less_than(self, other: "Scored") -> dict[str, float]:
        """By how much it loses less on a byte, and the standard error of that, in nats."""
        gains = other.losses - self.losses
        return {"gain": float(gains.mean()), "error": float(gains.std() / len(gains) ** 0.5)}


@dataclass(frozen=True)
class Planner:
    """Plans the language model's formats.

    Attributes:
        subject: The model and what judges it.
        offers: A part with its formats and losses each.
    """

    subject: Subject
    offers: list[Offer]

    @classmethod
    def of(cls, subject: Subject) -> "Planner":
        """Measure sensitivities."""
        losses = sensitivities(subject.study, METRIC, FORMS)
        return cls(
            subject,
            [
                Offer(part, dict(zip(FORMS, losses[part.name], strict=True)), METRIC)
                for part in subject.study.parts
            ],
        )

    def mixed(self, nbytes: int) -> Scored:
        """A plan of at most so many bytes."""
        study = self.subject.study
        units = tuple(offer.unit(offer.work(study.program, study.ctx)) for offer in self.offers)
        problem = Problem(units, (Limit("nbytes", nbytes),))
        answer = solve(problem, SOLVER)
        if isinstance(answer, Infeasible):
            raise BudgetError(str(answer))
        known = {offer.part: offer.by_name() for offer in self.offers}
        measured = Measurement(study, known, {unit.name: [unit] for unit in units})
        plan = refined_plan(problem, answer, measured, ROUNDS).plan
        forms = {part: names[plan.choices[part.name]] for part, names in known.items()}
        return Scored(MIXED, "", int(plan.totals["nbytes"]), *self.subject.scored(forms))


def rows_of(progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
    """Measure all ways, then a plan of every size there is."""
    subject = Subject.of(LANGUAGE, test_batches=None)
    parts = subject.study.parts
    sizes = {form: sum(form.nbytes(part.weight.shape) for part in parts) for form in FORMS}
    four, three = (next(f for f in FORMS if f.bits == bits) for bits in (4, 3))
    middle = [int(sizes[three] + share * (sizes[four] - sizes[three])) for share in BETWEEN]
    task = progress.add_task(TITLE, total=2 * (len(FORMS) - 1 + len(RATIOS)) + len(BETWEEN))
    others: list[Scored] = []
    for one in _others(subject, sizes):
        others.append(one)
        yield one.row(one.nbytes)
        progress.advance(task)
    planner = Planner.of(subject)
    for nbytes in sorted({*(one.nbytes for one in others), *middle}):
        plan = planner.mixed(nbytes)
        same = [one for one in others if one.nbytes == nbytes]
        yield plan.row(nbytes) | {"less_than": {one.way: plan.less_than(one) for one in same}}
        progress.advance(task)


def _others(subject: Subject, sizes: dict[Form, int]) -> Iterator[Scored]:
    for form in FORMS[1:]:
        forms = dict.fromkeys(subject.study.parts, form)
        yield Scored(UNIFORM, f"{form.bits} bits", sizes[form], *subject.scored(forms))
    yield from _nncf(subject)


def _nncf(subject: Subject) -> Iterator[Scored]:
    """NNCF's mixed precision of the same model; nothing where it is not installed."""
    try:
        import nncf
    except ImportError:
        return
    data = [next(iter(inputs.values())) for inputs in subject.study.data]
    for ratio in RATIOS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = nncf.compress_weights(
                language_model()[0],
                mode=nncf.CompressWeightsMode.INT4_SYM,
                ratio=ratio,
                group_size=GROUP,
                backup_mode=nncf.BackupMode.INT8_SYM,
                sensitivity_metric=nncf.SensitivityMetric.MAX_ACTIVATION_VARIANCE,
                dataset=nncf.Dataset(data),
                all_layers=True,
            )
        with torch.inference_mode():
            found = subject.scored_by(lambda inputs, model=model: [model(*inputs)])
        yield Scored(NNCF, f"ratio {ratio:g}", _stored_nbytes(model, subject), *found)


def _stored_nbytes(model: torch.nn.Module, subject: Subject) -> int:
    """Bytes of everything but what a plan is not about either: norms and tables of angles."""
    tensors = [*model.parameters(), *model.buffers()]
    whole = sum(one.numel() * one.element_size() for one in tensors)
    plain = language_model()[0]
    tensors = [*plain.parameters(), *plain.buffers()]
    rest = sum(one.numel() * one.element_size() for one in tensors)
    return whole - rest + sum(FLOAT.nbytes(part.weight.shape) for part in subject.study.parts)


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """All sizes in order, the ways side by side."""
    made = table("", "bytes", UNIFORM, MIXED, NNCF, numbers=("bytes", UNIFORM, MIXED, NNCF))
    for nbytes in sorted({row["limit"] for row in rows}):
        here = {row["way"]: row for row in rows if row["limit"] == nbytes}
        cells = [_cell(here.get(way)) for way in (UNIFORM, MIXED, NNCF)]
        made.add_row(size_text(nbytes), *cells)
    return [made]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    label = f" ({row['label']})" if row["label"] else ""
    return f"{row['value']:.4f}, {row['divergence']:.2g}{label}"


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """At every size of another way, whether the plan is better."""
    plans = {row["limit"]: row for row in rows if row["way"] == MIXED}
    for row in rows:
        if row["way"] != MIXED:
            plan = plans[row["limit"]]
            found = plan["less_than"][row["way"]]
            verdict = VERDICTS[int(np.sign(found["gain"]))]
            yield (
                f"{size_text(row['limit'])}: the plan ({plan['value']:.4f}) {verdict} "
                f"{row['way']}, {row['label']} ({row['value']:.4f}), by "
                f"{abs(found['gain']):.4f} ± {found['error']:.4f}; divergence "
                f"{plan['divergence']:.2g} against {row['divergence']:.2g}"
            )
