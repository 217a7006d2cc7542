"""Taylor expansion of the loss along a weight's error.

Without labels the gradient of the loss at the weights is 0; gradients of likelihoods of labels
drawn from the program's own answers stand in (see `Divergence.score`), whose mean square along an
error is the second derivative.
"""

from collections.abc import Iterator, Sequence

import torch

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.running import Exchanged, exchanged_weights
from effc.passes.bits.metrics.second_moments import effective_error
from effc.passes.bits.metrics.study import Study

DRAWS = 4


class Taylor:
    """Base: an expansion per draw of a gradient, averaged.

    Activations' rounding is added in proportion to the error it amounts to.
    """

    def of(self, along: torch.Tensor) -> float:
        """What an error costs, from g.d summed over each row of the weight: [out]."""
        raise NotImplementedError

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """One backward pass per draw serves all parts and formats."""
        errors = {part: [form.restored(part.weight) - part.weight for form in forms]
                  for part in parts}  # fmt: skip
        totals = {part: [0.0] * len(forms) for part in parts}
        count = 0
        for gradients in drawn_gradients(study, parts):
            count += 1
            for part, gradient in zip(parts, gradients, strict=True):
                for at, error in enumerate(errors[part]):
                    totals[part][at] += self.of((gradient * error).flatten(1).sum(1).double())
        for part in parts:
            yield (
                part,
                [
                    total / count * _with_activation(study, part, form, error)
                    for total, form, error in zip(totals[part], forms, errors[part], strict=True)
                ],
            )


class TaylorFirst(Taylor):
    """|g.d| of the whole weight."""

    def of(self, along: torch.Tensor) -> float:
        """First order."""
        return float(along.sum().abs())


class TaylorSecond(Taylor):
    """Sum over output rows of |g.d + (g.d)^2 / 2|.

    The row scores of MixLLM (Zheng et al., 2024, arXiv 2412.14590), which sorts rows by them; here
    the rows of a part add up.
    """

    def of(self, along: torch.Tensor) -> float:
        """Second order, per row."""
        return float((along + 0.5 * along**2).abs().sum())


def drawn_gradients(study: Study, parts: Sequence[Part]) -> Iterator[list[torch.Tensor]]:
    """Gradients by the parts' weights whose mean outer product is the second derivative.

    Yields:
        A gradient per part, for every batch of the sample and draw.
    """
    draw = study.generator("taylor")
    for batch in study.sample if parts else ():
        weights = [part.weight.clone().requires_grad_() for part in parts]
        known = exchanged_weights(dict(zip(parts, weights, strict=True)))
        with torch.enable_grad():
            found = Exchanged(study.program.forward, known).outputs(batch.inputs)
            for left in range(DRAWS - 1, -1, -1):
                score = study.divergence.score(batch.outputs, found, draw)
                gradients = torch.autograd.grad(
                    score, weights, retain_graph=left > 0, allow_unused=True
                )
                yield [
                    torch.zeros_like(weight) if gradient is None else gradient
                    for weight, gradient in zip(weights, gradients, strict=True)
                ]


def _with_activation(study: Study, part: Part, form: Form, error: torch.Tensor) -> float:
    """By what the rounding of activations multiplies the error of the weight."""
    own = float(error.double().square().sum())
    return effective_error(study, part, form) / own if own else 1.0
