"""How far a student's outputs are from its teacher's.

- `kl`: Kullback-Leibler divergence of the distributions, at a temperature (G. Hinton et al., 2015,
  arXiv 1503.02531; times the square of the temperature, which keeps gradients as large).
- `jensen-shannon`: the symmetric one (SSLD, C. Cui et al., 2021, arXiv 2103.05959).
- `mse`: squared error over the energy of the teacher's output.
- `cosine`: one minus the cosine of rows, plus `mse` (ScalingNote).
- `auto`: `kl` where the output is logits, else `mse`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, fx
from torch.nn import functional

from effc.passes.bits.metrics.divergence import Divergence

Loss = Literal["auto", "kl", "jensen-shannon", "mse", "cosine"]
TINY = 1e-12


class OutputLoss:
    """The loss over the floating outputs of a graph.

    Args:
        module: Whose outputs are compared.
        kind: How.
        temperature: Of distributions.
    """

    def __init__(self, module: fx.GraphModule, kind: Loss, temperature: float) -> None:
        self._temperature = temperature
        is_logits = Divergence.of(module).is_logits
        self.kinds = [("kl" if one else "mse") if kind == "auto" else kind for one in is_logits]

    def __call__(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """A number, differentiable by `student`."""
        pairs = zip(_floats(teacher), _floats(student), self.kinds, strict=True)
        return torch.stack([self._one(*pair) for pair in pairs]).sum()

    def sparse(self, kept: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
        """The loss beside what `kept` made of the teacher's outputs.

        Of a distribution all answers that were not kept count as one.
        """
        found, values = _floats(student), list(kept)
        losses = []
        for kind, value in zip(self.kinds, found, strict=True):
            if kind not in ("kl", "jensen-shannon"):
                losses.append(self._one(values.pop(0).float(), value, kind))
                continue
            known, places = values.pop(0).float(), values.pop(0).long()
            q = functional.log_softmax(value / self._temperature, -1).gather(-1, places)
            p, q = _with_rest(known), _with_rest(q)
            losses.append(self._temperature**2 * _divergence(kind, p, q))
        return torch.stack(losses).sum()

    def kept(self, teacher: Sequence[Tensor], count: int) -> list[Tensor]:
        """The `count` largest log likelihoods (float16) and their places (int32) of distributions.

        Other outputs are kept whole, in float16.
        """
        found: list[Tensor] = []
        for kind, value in zip(self.kinds, _floats(teacher), strict=True):
            if kind not in ("kl", "jensen-shannon"):
                found.append(value.half())
                continue
            likely = functional.log_softmax(value / self._temperature, -1)
            top = likely.topk(min(count, likely.shape[-1]), -1)
            found += [top.values.half(), top.indices.int()]
        return found

    def _one(self, expected: Tensor, found: Tensor, kind: str) -> Tensor:
        if kind == "mse":
            return relative_error(expected, found)
        if kind == "cosine":
            cosine = functional.cosine_similarity(expected, found, dim=-1)
            return (1 - cosine).mean() + relative_error(expected, found)
        p, q = (functional.log_softmax(one / self._temperature, -1) for one in (expected, found))
        return self._temperature**2 * _divergence(kind, p, q)


def relative_error(expected: Tensor, found: Tensor) -> Tensor:
    """Squared error over the energy of what was expected."""
    return (found - expected).square().sum() / expected.square().sum().clamp(min=TINY)


def _divergence(kind: str, p: Tensor, q: Tensor) -> Tensor:
    """Of log likelihoods along the last dimension, the mean over all others."""
    if kind == "kl":
        return (p.exp() * (p - q)).sum(-1).mean()
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    both = (p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)
    return both.mean() / 2


def _with_rest(likely: Tensor) -> Tensor:
    """Log likelihoods with that of everything else behind them."""
    rest = (1 - likely.exp().sum(-1, keepdim=True)).clamp(min=TINY)
    return torch.cat([likely, rest.log()], -1)


def _floats(values: Sequence[Tensor]) -> list[Tensor]:
    return [value for value in values if value.is_floating_point()]
