"""A closed formula over cheap statistics, found by evolution.

P. Dong et al., "EMQ: Evolving Training-free Proxies for Automated Mixed Precision Quantization",
2023, arXiv 2307.10554: formulas over statistics of weights, gradients and errors are bred for the
rank correlation of what they predict with what was measured. `tools/dev/evolve_proxy.py` does that
on the digits models; `PROXY` is what it printed.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.expression import Expression, Values
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.second_moments import effective_error, relative_error
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.metrics.taylor import drawn_gradients

PROXY = "mul(log1p(square(gradient)), div(error, count))"
Numbers = dict[str, Values]


def _noise(study: Study, parts: Sequence[Part], forms: Sequence[Form]) -> Values:
    return np.array([[relative_error(study, part, form) for form in forms] for part in parts])


def _error(study: Study, parts: Sequence[Part], forms: Sequence[Form]) -> Values:
    return np.array([[effective_error(study, part, form) for form in forms] for part in parts])


def _energy(study: Study, parts: Sequence[Part], forms: Sequence[Form]) -> Values:
    found = [float(part.weight.double().square().sum()) for part in parts]
    return np.broadcast_to(np.array(found)[:, None], (len(parts), len(forms)))


def _count(study: Study, parts: Sequence[Part], forms: Sequence[Form]) -> Values:
    found = [float(part.weight.numel()) for part in parts]
    return np.broadcast_to(np.array(found)[:, None], (len(parts), len(forms)))


def _gradient(study: Study, parts: Sequence[Part], forms: Sequence[Form]) -> Values:
    """Sum of squares of the gradient: the trace of the Fisher information."""
    totals, draws = np.zeros(len(parts)), 0
    for gradients in drawn_gradients(study, parts):
        draws += 1
        totals += [float(one.double().square().sum()) for one in gradients]
    return np.broadcast_to((totals / max(draws, 1))[:, None], (len(parts), len(forms)))


STATISTICS: dict[str, Callable[[Study, Sequence[Part], Sequence[Form]], Values]] = {
    "noise": _noise,
    "error": _error,
    "energy": _energy,
    "count": _count,
    "gradient": _gradient,
}


def numbers_of(
    study: Study, parts: Sequence[Part], forms: Sequence[Form], names: Sequence[str]
) -> Numbers:
    """Some of `STATISTICS`: float64 [parts, forms] each."""
    return {name: STATISTICS[name](study, parts, forms) for name in names}


class Evolved:
    """The formula `PROXY`.

    Attributes:
        text: The formula.
    """

    text: str = PROXY

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Statistics, then the formula."""
        if not parts:
            return
        formula = Expression.parse(self.text, tuple(STATISTICS))
        found = formula.value(numbers_of(study, parts, forms, sorted(formula.names())))
        for part, row in zip(parts, np.broadcast_to(found, (len(parts), len(forms))), strict=True):
            losses = zip(forms, row, strict=True)
            yield part, [0.0 if form.is_float else max(float(loss), 0.0) for form, loss in losses]
