"""`metric=auto`: the metric that orders a few measured configurations best."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.registry import AUTO, Losses, sensitivities
from effc.passes.bits.metrics.study import Study

CANDIDATES = (
    "sqnr",
    "salience",
    "hessian-trace",
    "taylor-second",
    "output-divergence",
    "augmented-hessian",
)
CONFIGURATIONS = 12


def predicted(study: Study, name: str, forms: Sequence[Form]) -> tuple[Losses, str, dict[str, Any]]:
    """Losses by a metric, which metric that is, and what the report says of the choice.

    Args:
        study: The program and its parts.
        name: A metric, or `auto`: of `CANDIDATES`, the one whose predictions have the highest
            rank correlation (Spearman) with the measured divergence of random configurations.
        forms: Formats in question.
    """
    if study.ctx.calibration is None and name != "weight-error":
        why = "there is no data the model can run on: errors of weights alone decide"
        return sensitivities(study, "weight-error", forms), "weight-error", {"metric": why}
    if name != AUTO:
        return sensitivities(study, name, forms), name, {}
    losses = {metric: sensitivities(study, metric, forms) for metric in CANDIDATES}
    ranks = {metric: _agreement(study, found, forms) for metric, found in losses.items()}
    best = max(CANDIDATES, key=lambda metric: ranks[metric])
    return losses[best], best, {"rank_correlation": ranks, "metric": f"{best} orders best"}


def _agreement(study: Study, losses: Losses, forms: Sequence[Form]) -> float:
    """Rank correlation of predicted and measured losses; -1 where all are equal."""
    drawn = configurations(study, len(forms))
    rows = np.array([losses[part.name] for part in study.parts])
    predictions = rows[np.arange(len(rows)), drawn].sum(1)
    found = float(spearmanr(predictions, _measured(study, drawn, forms)).statistic)
    return found if np.isfinite(found) else -1.0


def configurations(study: Study, formats: int) -> NDArray[np.int64]:
    """Random formats for all parts: [configurations, parts]."""
    draw = study.ctx.rng("configurations")
    return draw.integers(0, formats, (CONFIGURATIONS, len(study.parts)))


def _measured(study: Study, drawn: NDArray[np.int64], forms: Sequence[Form]) -> list[float]:
    """Measured once per study, kept in its store."""
    name = "configurations " + " ".join(map(str, forms))
    entry = study.recalled(name)
    found = list(entry.get("damage", []))
    for done, row in enumerate(drawn[len(found) :], start=len(found) + 1):
        chosen = {part: forms[at] for part, at in zip(study.parts, row, strict=True)}
        found.append(study.damage(chosen))
        study.remember(name, {"damage": found})
        study.ctx.progress("measure configurations", done, len(drawn))
    return found
