"""The language model's weights in fewer and fewer bits: one width for all, or one per layer.

At the bytes of every uniform width a plan mixes widths by the default metric. NNCF's compression of
weights to 4 and 8 bits by a sensitivity metric stands beside plans of the same bytes.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from rich.table import Table

from bench.allocation import GROUP, LANGUAGE, SOLVER, Subject
from effc.ir.errors import BudgetError
from effc.passes.bits.allocation import Offer
from effc.passes.bits.forms import FLOAT, Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.registry import sensitivities
from effc.passes.plan.model import Infeasible, Limit, Problem
from effc.passes.plan.solver import solve
from effc.tables import table
from effc.units import size_text
from zoo.language_model import language_model, negative_log_likelihood

SECTION, TITLE = "front", "mixed and uniform"
METRIC = "augmented-hessian"
FORMS = tuple(Form.parse(f"w{bits}a32g{GROUP}") for bits in (8, 6, 5, 4, 3, 2))
BETWEEN = (0.25, 0.5, 0.75)  # of the way from one uniform size to the next, from 3 to 4 bits
RATIOS = (1.0, 0.8, 0.5)
UNIFORM, MIXED, NNCF = "uniform", "mixed", "NNCF"
Row = dict[str, Any]
ABOUT = (
    f"All weights of the zoo's language model in groups of {GROUP}, rounded to nearest, "
    "activations in float; bytes of codes and scales, perplexity on held out text, in PyTorch. A "
    f"plan chooses of 2, 3, 4, 5, 6 and 8 bits by {METRIC}; NNCF chooses of 4 and 8 bits, on the "
    "same data, by its own sensitivity (max_activation_variance; all in 4 bits at ratio 1)."
)


def rows_of(progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
    """Measure all ways."""
    subject = Subject.of(LANGUAGE)
    parts = subject.study.parts
    losses = sensitivities(subject.study, METRIC, FORMS)
    offers = [
        Offer(part, dict(zip(FORMS, losses[part.name], strict=True)), METRIC) for part in parts
    ]
    program, ctx = subject.study.program, subject.study.ctx
    problem = Problem(tuple(offer.unit(offer.work(program, ctx)) for offer in offers))
    sizes = {form: sum(form.nbytes(part.weight.shape) for part in parts) for form in FORMS}
    peers = list(_nncf(subject))
    task = progress.add_task(TITLE, total=2 * len(FORMS) + len(BETWEEN) + len(peers))
    for form in FORMS[1:]:
        yield _row(subject, UNIFORM, f"{form.bits} bits", sizes[form], dict.fromkeys(parts, form))
        progress.advance(task)
    four, three = (next(f for f in FORMS if f.bits == bits) for bits in (4, 3))
    middle = [int(sizes[three] + share * (sizes[four] - sizes[three])) for share in BETWEEN]
    for nbytes in sorted({*list(sizes.values())[1:], *middle, *(row["nbytes"] for row in peers)}):
        yield _mixed(subject, problem, nbytes)
        progress.advance(task)
    yield from peers


def _mixed(subject: Subject, problem: Problem, nbytes: int) -> Row:
    """A plan of at most so many bytes."""
    limit = Limit("nbytes", nbytes)
    answer = solve(Problem(problem.units, (limit,)), SOLVER)
    if isinstance(answer, Infeasible):
        raise BudgetError(str(answer))
    known = {str(form): form for form in FORMS}
    forms = {part: known[answer.choices[part.name]] for part in subject.study.parts}
    return _row(subject, MIXED, "", int(answer.totals["nbytes"]), forms) | {"limit": nbytes}


def _row(subject: Subject, way: str, label: str, nbytes: int, forms: dict[Part, Form]) -> Row:
    divergence, perplexity = subject.judged(forms)
    return _facts(way, label, nbytes, perplexity) | {"divergence": divergence}


def _facts(way: str, label: str, nbytes: int, perplexity: float) -> Row:
    return {
        "section": SECTION, "model": LANGUAGE, "what": "perplexity", "value": perplexity,
        "unit": "1", "better": "lower", "way": way, "label": label, "nbytes": nbytes,
        "limit": nbytes, "peer": NNCF if way == NNCF else None,
    }  # fmt: skip


def _nncf(subject: Subject) -> Iterator[Row]:
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
        losses = []
        with torch.inference_mode():
            for inputs, labels, _ in subject.test:
                losses.append(negative_log_likelihood(model(*inputs).numpy(), labels))
        perplexity = float(np.exp(np.concatenate(losses).mean()))
        yield _facts(NNCF, f"ratio {ratio:g}", _stored_nbytes(model, subject), perplexity)


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
    return f"{row['value']:.4f}" + (f" ({row['label']})" if row["label"] else "")


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """At every size of another way, whether the plan is better."""
    plans = {row["limit"]: row for row in rows if row["way"] == MIXED}
    for row in rows:
        if row["way"] != MIXED:
            plan = plans[row["limit"]]
            verdict = "beats" if plan["value"] < row["value"] else "loses to"
            yield (
                f"{size_text(row['limit'])}: the plan ({plan['value']:.4f}) {verdict} "
                f"{row['way']}, {row['label']} ({row['value']:.4f})"
            )
