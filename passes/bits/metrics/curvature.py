"""HAWQ and HAWQ-V2: the second derivative of the loss by a part's weight.

The loss is the divergence from the program in float (see `divergence`), whose derivative at the
weights is 0, so that the second derivative is what a change costs first.
"""

from collections.abc import Iterator, Sequence

import torch

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.running import Exchanged, differentiable, exchanged_weights
from effc.passes.bits.metrics.second_moments import effective_error
from effc.passes.bits.metrics.study import Batch, Study

DRAWS = 16
ITERATIONS = 8
Vectors = list[torch.Tensor]


class HessianTrace:
    """Mean of the diagonal of the Hessian times the squared error.

    Z. Dong et al., "HAWQ-V2", 2019, arXiv 1911.03852: Omega = mean trace(H) * ||Q(W) - W||^2, the
    trace by Hutchinson's estimate E[v^T H v] over random signs v. One product H v serves all parts
    at once: with independent signs the terms between parts have mean 0.
    """

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Draw signs, average, weigh the errors."""
        if not parts:
            return
        totals, draw = [0.0] * len(parts), study.generator("hessian-trace")
        for batch in study.sample:
            for _ in range(-(-DRAWS // len(study.sample))):
                signs = [_signs(part.weight, draw) for part in parts]
                for at, product in enumerate(hessian_products(study, parts, batch, signs)):
                    totals[at] += float((signs[at] * product).double().sum())
        count = -(-DRAWS // len(study.sample)) * len(study.sample)
        for part, total in zip(parts, totals, strict=True):
            mean = max(total / count, 0.0) / part.weight.numel()
            yield part, [0.5 * mean * effective_error(study, part, form) for form in forms]


class HessianEigenvalue:
    """The largest eigenvalue of the Hessian times the squared error.

    Z. Dong et al., "HAWQ", 2019, arXiv 1905.03696: power iteration on the part's own block.
    """

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Iterate part by part."""
        for part in parts:
            draw = study.generator(f"hessian-eigenvalue {part.name}")
            largest = largest_eigenvalue(study, part, draw)
            yield part, [0.5 * largest * effective_error(study, part, form) for form in forms]


def largest_eigenvalue(study: Study, part: Part, draw: torch.Generator) -> float:
    """Power iteration on the Hessian of one part's weight, over the first batch of the sample."""
    vector = _signs(part.weight, draw)
    value = 0.0
    for _ in range(ITERATIONS):
        vector = vector / vector.norm().clamp(min=torch.finfo(torch.float32).tiny)
        (product,) = hessian_products(study, [part], study.sample[0], [vector])
        value, vector = float((vector * product).double().sum()), product
    return max(value, 0.0)


def hessian_products(
    study: Study, parts: Sequence[Part], batch: Batch, vectors: Vectors
) -> Vectors:
    """The Hessian of the divergence by the parts' weights, times a vector.

    Args:
        study: The program.
        parts: Whose weights are the variables.
        batch: What to run on.
        vectors: One per part, of the shape of its weight.
    """
    weights = [part.weight.clone().requires_grad_() for part in parts]
    known = exchanged_weights(dict(zip(parts, weights, strict=True)))
    with torch.enable_grad(), differentiable():
        found = Exchanged(study.program.forward, known).outputs(batch.inputs)
        loss = study.divergence(batch.outputs, found)
        first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        pairs = [(g, v) for g, v in zip(first, vectors, strict=True) if g is not None]
        along = sum(((g * v).sum() for g, v in pairs), start=torch.zeros(()))
        second = torch.autograd.grad(along, weights, allow_unused=True)
    return [
        torch.zeros_like(weight) if product is None else product
        for weight, product in zip(weights, second, strict=True)
    ]


def _signs(weight: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, weight.shape, generator=draw) * 2.0 - 1.0
