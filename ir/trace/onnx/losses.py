"""Losses, which occur in the official suite and in models exported while training."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor


def _reduced(call: Call, loss: Tensor, weights: Tensor | None) -> Tensor:
    match call.get("reduction", "mean"):
        case "none":
            return loss
        case "sum":
            return loss.sum()
    return loss.mean() if weights is None else loss.sum() / weights.sum()


def _negative_log_likelihood(
    call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The negated score of each target class.

    Args:
        call: `ignore_index` is a class that does not count.
        x: Logarithms of probabilities, [batch, classes, ...].
        target: Classes, [batch, ...].
        weight: [classes].
    """
    ignored = call.get("ignore_index")
    classes = target.to(torch.int64)
    counts = None if ignored is None else classes != ignored
    if counts is not None:
        classes = torch.where(counts, classes, 0)
    picked = -torch.gather(x, 1, classes.unsqueeze(1)).squeeze(1)
    weights = None
    if weight is not None:
        weights = torch.index_select(weight, 0, classes.reshape(-1)).reshape(classes.shape)
    if counts is not None:
        ones = torch.ones_like(picked) if weights is None else weights
        weights = torch.where(counts, ones, torch.zeros_like(ones))
    loss = picked if weights is None else picked * weights
    return _reduced(call, loss, weights)


def _cross_entropy(
    call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logarithms = F.log_softmax(x, 1)
    return _negative_log_likelihood(call, logarithms, target, weight), logarithms


TABLE: dict[str, Any] = {
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
