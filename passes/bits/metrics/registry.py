"""All metrics by name, and how they are asked: resumable, a part at a time."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.study import Study
from effc.passes.named import made

HERE = "effc.passes.bits.metrics"
METRICS: dict[str, str] = {
    "sqnr": f"{HERE}.second_moments:Sqnr",
    "salience": f"{HERE}.second_moments:Salience",
    "weight-error": f"{HERE}.second_moments:WeightError",
    "hessian-trace": f"{HERE}.curvature:HessianTrace",
    "hessian-eigenvalue": f"{HERE}.curvature:HessianEigenvalue",
    "taylor-first": f"{HERE}.taylor:TaylorFirst",
    "taylor-second": f"{HERE}.taylor:TaylorSecond",
    "output-divergence": f"{HERE}.outputs:OutputDivergence",
    "augmented-hessian": f"{HERE}.outputs:AugmentedHessian",
    "task-drop": f"{HERE}.outputs:TaskDrop",
    "relevance": f"{HERE}.factors:Relevance",
    "correlation": f"{HERE}.factors:Correlation",
    "pruning-drop": f"{HERE}.factors:PruningDrop",
    "perturbation": f"{HERE}.factors:Perturbation",
    "entropy": f"{HERE}.factors:Entropy",
    "evolved": f"{HERE}.evolved:Evolved",
}
AUTO = "auto"
HUGE = 1e12
Losses = dict[str, list[float]]


class Metric(Protocol):
    """Predicts what each part loses in each format."""

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """The increase of loss of each part, if it alone takes each of the formats.

        Yields:
            A part with a number per format, 0 for float; as soon as it is known.
        """


def metric_of(name: str) -> Metric:
    """A metric by name.

    Raises:
        UsageError: If there is none of that name.
    """
    found: Metric = made("metric", METRICS, name, AUTO)
    return found


def sensitivities(study: Study, name: str, forms: Sequence[Form]) -> Losses:
    """Losses by part and format, from the store where an earlier run left them.

    Every part is stored as soon as it is measured, so that a killed run goes on where it stopped.

    Args:
        study: The program and its parts.
        name: A key of `METRICS`.
        forms: Formats in question.

    Returns:
        A number per format by name of the part.

    Raises:
        DataError: If the metric needs data and there is none.
    """
    metric = metric_of(name)
    kept = {part.name: study.recalled(f"{name} {part.name}") for part in study.parts}
    missing = [part for part in study.parts if any(str(f) not in kept[part.name] for f in forms)]
    for done, (part, losses) in enumerate(metric.losses(study, missing, forms), start=1):
        fresh = {str(form): loss for form, loss in zip(forms, losses, strict=True)}
        kept[part.name] |= fresh
        study.remember(f"{name} {part.name}", kept[part.name])
        study.ctx.progress(f"sensitivity {name}", done, len(missing))
    return {
        part.name: [_number(kept[part.name][str(form)]) for form in forms] for part in study.parts
    }


def _number(loss: float) -> float:
    """A loss a solver can plan with: huge where the format makes the outputs no numbers."""
    return loss if math.isfinite(loss) else HUGE
