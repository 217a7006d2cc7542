"""Metrics that weigh a part's relative error by one number that says how much the part matters."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from effc.passes.bits.forms import Form
from effc.passes.bits.layers import Layer
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.running import Exchanged, exchanged_weights
from effc.passes.bits.metrics.second_moments import relative_error
from effc.passes.bits.metrics.study import Batch, Study

SPARSITY = 0.5
STEP = 0.01
BINS = 256
MOST_CHANNELS = 256
MOST_ROWS = 4096
RIDGE = 1e-3
TINY = 1e-30
Matrix = NDArray[np.float64]


class Factor:
    """Base: importance of the part times noise over signal of its output."""

    def importance(self, study: Study, part: Part) -> float:
        """How much the part matters, at least 0."""
        raise NotImplementedError

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """One importance per part."""
        for part in parts:
            importance = self.importance(study, part)
            yield part, [importance * relative_error(study, part, form) for form in forms]


class PruningDrop(Factor):
    """Divergence of the outputs when the smaller half of the weights is set to zero.

    PMPQ of CPTQuant (Nanda et al., 2024, arXiv 2412.03599), with the divergence for the accuracy.
    """

    def importance(self, study: Study, part: Part) -> float:
        """Prune and run."""
        magnitudes = part.weight.abs()
        count = max(1, math.ceil(SPARSITY * magnitudes.numel()))
        threshold = magnitudes.flatten().kthvalue(count).values
        pruned = torch.where(magnitudes > threshold, part.weight, torch.zeros(()))
        known = exchanged_weights({part: pruned})
        found = []
        with torch.no_grad():
            for batch in study.sample:
                outputs = Exchanged(study.program.forward, known).outputs(batch.inputs)
                found.append(float(study.divergence(batch.outputs, outputs)))
        return float(np.mean(found))


class Perturbation(Factor):
    """First-order response of the outputs to a small change of what the part reads.

    TDMPQ of CPTQuant (arXiv 2412.03599): an input x is changed to x (1 + 0.01 n), n normal, and the
    root of the divergence that makes is taken over the size of the change.
    """

    def importance(self, study: Study, part: Part) -> float:
        """Disturb and run."""
        draw = study.generator(f"perturbation {part.name}")
        found = []
        with torch.no_grad():
            for batch in study.sample:
                runner = _Disturbed(study.program.forward, part, draw)
                outputs = runner.outputs(batch.inputs)
                found.append(float(study.divergence(batch.outputs, outputs)))
        return math.sqrt(max(float(np.mean(found)), 0.0)) / STEP


class _Disturbed(Exchanged):
    """Runs a graph; the layers of one part read disturbed values (a table gives disturbed rows)."""

    def __init__(self, module: fx.GraphModule, part: Part, draw: torch.Generator) -> None:
        super().__init__(module, {})
        self._nodes = {layer.node: layer for layer in part.layers}
        self._draw = draw

    def run_node(self, n: fx.Node) -> Any:
        """Disturb what a layer of the part reads, or what its table gives."""
        layer = self._nodes.get(n)
        if layer is None:
            return super().run_node(n)
        if layer.kind == "embedding":
            return self._disturbed(super().run_node(n))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self.call_function(n.target, (self._disturbed(args[0]), *args[1:]), kwargs)

    def _disturbed(self, value: torch.Tensor) -> torch.Tensor:
        return value * (1 + STEP * torch.randn(value.shape, generator=self._draw))


class Relevance(Factor):
    """Share of the answer that flows through the part, by layer-wise relevance propagation.

    As in LRP-QViT (Ranjan and Savakis, 2024, arXiv 2401.11243), from the predicted class (of other
    outputs: from all elements) back. The relevance of a part's outputs is |output x gradient|,
    which the epsilon rule gives with epsilon 0 in networks of linear layers and rectifiers (Ancona
    et al., 2018, arXiv 1711.06104); through other operators this departs from the paper's rules.
    """

    def importance(self, study: Study, part: Part) -> float:
        """One backward pass per batch."""
        return float(np.mean([_relevance(study, part, batch) for batch in study.sample]))


def _relevance(study: Study, part: Part, batch: Batch) -> float:
    weight = part.weight.clone().requires_grad_()
    runner = Exchanged(study.program.forward, exchanged_weights({part: weight}), keep=True)
    with torch.enable_grad():
        outputs = [v for v in runner.outputs(batch.inputs) if v.is_floating_point()]
        answer = torch.zeros(())
        for value, is_logits in zip(outputs, study.divergence.is_logits, strict=True):
            answer = answer + (value.amax(-1).sum() if is_logits else value.abs().sum())
        values = [runner.env[layer.node] for layer in part.layers]
        gradients = torch.autograd.grad(answer, values, allow_unused=True)
    pairs = [(v, g) for v, g in zip(values, gradients, strict=True) if g is not None]
    flow = sum(float((value * gradient).detach().abs().sum()) for value, gradient in pairs)
    return flow / max(abs(float(answer.detach())), TINY)


class Entropy(Factor):
    """Entropy of the part's weights in 256 bins between their extremes, in bits.

    A layer whose values are spread evenly has more to lose than one whose values pile up, as in the
    score of QuantMCU (2024), which takes it of feature maps.
    """

    def importance(self, study: Study, part: Part) -> float:
        """Count weights."""
        counts, _ = np.histogram(part.weight.numpy(), bins=BINS)
        p = counts[counts > 0] / counts.sum()
        return float(-(p * np.log2(p)).sum())


class Correlation(Factor):
    """One minus the mean canonical correlation with the next part.

    CMPQ of CPTQuant (arXiv 2412.03599): where what one layer computes and what the next one
    computes are linear functions of each other, little is lost in between. The paper does not say
    how wide layers are compared: here a random projection to `MOST_CHANNELS` channels is taken.
    """

    def importance(self, study: Study, part: Part) -> float:
        """Compare what this part computes with what the next one does."""
        order = list(study.parts)
        at = order.index(part)
        other = order[at + 1] if at + 1 < len(order) else order[at - 1]
        if other is part:
            return 1.0
        one, two = (_sampled(study, layer) for layer in (part.layers[-1], other.layers[0]))
        count = min(len(one), len(two))
        return max(1.0 - canonical_correlation(_thinned(one, count), _thinned(two, count)), 0.0)


def canonical_correlation(one: Matrix, two: Matrix) -> float:
    """Mean of the canonical correlations of two sets of variables.

    Args:
        one: [samples, variables].
        two: [samples, other variables].
    """
    whitened = [_whitened(side) for side in (one, two)]
    singular = np.linalg.svd(whitened[0].T @ whitened[1], compute_uv=False)
    return float(np.clip(singular, 0.0, 1.0).mean())


def _whitened(samples: Matrix) -> Matrix:
    centred = samples - samples.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(left[:, sizes > RIDGE * max(float(sizes.max()), TINY)])


def _sampled(study: Study, layer: Layer) -> Matrix:
    """What a layer computes on the sample: float64 [rows, channels]."""
    draw = study.ctx.rng("correlation")
    values = [batch.values[layer.node] for batch in study.sample]
    is_map = layer.kind == "conv2d"
    rows = [value.movedim(1, -1) if is_map else value for value in values]
    flat = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).double().numpy()
    flat = _thinned(np.asarray(flat), MOST_ROWS)
    if flat.shape[1] > MOST_CHANNELS:
        flat = flat @ draw.standard_normal((flat.shape[1], MOST_CHANNELS))
    return np.asarray(flat)


def _thinned(samples: Matrix, count: int) -> Matrix:
    """Evenly spaced rows."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(np.int64)
    return np.asarray(samples[chosen])
