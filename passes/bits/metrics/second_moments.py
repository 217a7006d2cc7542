"""Metrics in closed form from the second moments H = sum x x^T of what a weight multiplies.

The squared error of a layer's output is tr(D H D^T) for a weight error D; no run is needed once the
statistics are there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from effc.passes.bits.encoding import dynamic_db
from effc.passes.bits.forms import FLOAT_BITS, Form
from effc.passes.bits.layers import Layer
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.study import Study
from effc.passes.calibrate.windows import Window

Matrix = NDArray[np.float64]
DAMPING = 0.01
TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what one part multiplies, summed over its layers.

    Attributes:
        whole: float64 [groups, terms, terms], or its diagonals [groups, terms] where the memory
            for moments does not hold it.
        noise: By how much of its own energy, summed over all terms, an activation in 8 bits
            differs.
    """

    whole: Matrix
    noise: float

    @property
    def diagonal(self) -> Matrix:
        """float64 [groups, terms]."""
        is_whole = self.whole.ndim == 3
        return np.diagonal(self.whole, axis1=1, axis2=2) if is_whole else self.whole

    def energy(self, weight: torch.Tensor) -> float:
        """Sum of squares of the outputs of a weight [out, ...]: tr(W H W^T)."""
        rows = grouped(weight, len(self.whole))
        if self.whole.ndim == 2:
            return float(np.einsum("gok,gk->", rows**2, self.whole))
        return float(np.einsum("gok,gok->", rows @ self.whole, rows))

    def rounding(self, weight: torch.Tensor) -> float:
        """Sum of squares of what rounded activations add to the outputs."""
        per_term = self.noise * self.diagonal.mean(1, keepdims=True)
        return float((grouped(weight, len(self.whole)) ** 2 * per_term[:, None, :]).sum())


def moments_of(study: Study, part: Part) -> Moments | None:
    """Second moments of a part; None for a table, whose rows are looked up."""
    found = [_of_layer(study, layer) for layer in part.products]
    if not found:
        return None
    is_whole = all(moment.whole.ndim == 3 for moment in found)
    total = sum(moment.whole if is_whole else moment.diagonal for moment in found)
    return Moments(np.asarray(total), max(moment.noise for moment in found))


def _of_layer(study: Study, layer: Layer) -> Moments:
    value = study.statistics[layer.value.name]
    noise = 10 ** (-dynamic_db(value) / 10) if value.slices else 0.0
    if layer.kind != "conv2d":
        whole = value.channel_square if value.moment is None else value.moment
        return Moments(whole[None], noise)
    window = Window.of(layer.node)
    assert window is not None, "a layer's weight is a constant"
    if str(window) in value.windows:
        return Moments(value.windows[str(window)], noise)
    taps = window.kernel[0] * window.kernel[1]
    diagonal = np.repeat(value.channel_square, taps).reshape(window.groups, -1)
    return Moments(diagonal, noise)


def relative_error(study: Study, part: Part, form: Form) -> float:
    """Noise over signal of a part's output, of weight and activation together.

    For a table, and without data, inputs are taken as white: the squared error of the weight.
    """
    if form.is_float:
        return 0.0
    error = form.restored(part.weight) - part.weight
    moments = moments_of(study, part) if study.ctx.calibration is not None else None
    if moments is None:
        return float(error.double().square().sum() / _energy(part.weight))
    noise = moments.energy(error)
    if form.activation < FLOAT_BITS:
        noise += moments.rounding(part.weight)
    return noise / max(moments.energy(part.weight), TINY)


def effective_error(study: Study, part: Part, form: Form) -> float:
    """Squared error of a weight, and what a rounded activation amounts to.

    An activation's rounding counts as the white weight error that would make the output as noisy.
    """
    if form.is_float:
        return 0.0
    error = float((form.restored(part.weight) - part.weight).double().square().sum())
    moments = moments_of(study, part) if study.ctx.calibration is not None else None
    if moments is None or form.activation == FLOAT_BITS:
        return error
    mean = float(moments.diagonal.mean())
    return error + moments.rounding(part.weight) / max(mean, TINY)


class Sqnr:
    """Noise over signal of the part's own output: the inverse of its SQNR, so that parts add up."""

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Read off the second moments."""
        for part in parts:
            yield part, [relative_error(study, part, form) for form in forms]


class WeightError:
    """Squared error over energy of the weight itself; needs no data."""

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Compare weights."""
        for part in parts:
            energy = _energy(part.weight)
            errors = [(form.restored(part.weight) - part.weight).double() for form in forms]
            yield part, [float(error.square().sum()) / energy for error in errors]


class Salience:
    """Squared errors weighed by the salience of SliM-LLM (Huang et al., 2024, arXiv 2405.14917).

    The salience of an element is w^2 / [H^-1]_jj^2; an error d costs the share (d / w)^2 of it,
    summed over the weight: sum d^2 / [H^-1]_jj^2. H is damped by a hundredth of its mean diagonal.
    The sum is taken over that of all saliences, so that parts compare.
    """

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Invert the second moments."""
        for part in parts:
            moments = moments_of(study, part)
            if moments is None:
                yield part, [relative_error(study, part, form) for form in forms]
                continue
            worth = 1.0 / inverse_diagonal(moments) ** 2
            whole = _weighed(part.weight, worth) or 1.0
            errors = [effective_salience(part, form, worth, moments) for form in forms]
            yield part, [error / whole for error in errors]


def effective_salience(part: Part, form: Form, worth: Matrix, moments: Moments) -> float:
    """Salience lost to a format; rounded activations count in proportion to the output's noise."""
    lost = _weighed(form.restored(part.weight) - part.weight, worth)
    if form.activation < FLOAT_BITS:
        share = moments.rounding(part.weight) / max(moments.energy(part.weight), TINY)
        lost += share * _weighed(part.weight, worth)
    return lost


def inverse_diagonal(moments: Moments) -> Matrix:
    """Diagonal of the inverse of the damped second moments: float64 [groups, terms]."""
    diagonal = moments.diagonal
    damping = DAMPING * diagonal.mean(1, keepdims=True) + TINY
    if moments.whole.ndim == 2:
        return np.asarray(1.0 / (diagonal + damping))
    eye = np.eye(diagonal.shape[1])
    inverse = np.linalg.inv(moments.whole + damping[:, :, None] * eye)
    return np.diagonal(inverse, axis1=1, axis2=2)


def _weighed(weight: torch.Tensor, worth: Matrix) -> float:
    return float((grouped(weight, len(worth)) ** 2 * worth[:, None, :]).sum())


def grouped(weight: torch.Tensor, groups: int) -> Matrix:
    """A weight [out, ...] as float64 [groups, out / groups, terms]."""
    rows = weight.detach().reshape(weight.shape[0], -1).double().numpy()
    return np.asarray(rows.reshape(groups, len(rows) // groups, -1))


def _energy(weight: torch.Tensor) -> float:
    return float(weight.double().square().sum()) or 1.0
