"""Spell out variance, standard deviation and the logarithm of sums of exponentials."""

from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.passes.lower.chain import Chain, argument

aten = torch.ops.aten
DEVIATIONS = ("aten.std.correction", "aten.std.dim")
MEANS = ("aten.var_mean.correction", "aten.var_mean.dim")
VARIANCES = ("aten.var.correction", "aten.var.dim", *MEANS, *DEVIATIONS)


def _dims(node: fx.Node) -> list[int]:
    """The dimensions a reduction runs over; all of them where none is named."""
    rank, given = node.args[0].meta["val"].dim(), argument(node, 1, "dim")
    return [dim % rank for dim in given] if given else list(range(rank))


def _dropped(new: Chain, node: fx.Node, dims: list[int], keeps: bool) -> fx.Node:
    """A reduction that kept its dimensions, without them if they were not to be kept."""
    return node if keeps else new(aten.squeeze.dims, node, dims)


class LogSumExp:
    """m + log(sum(exp(x - m))) with the largest element m, or 0 where that is infinite."""

    name = "log-sum-exp"

    def match(self, node: fx.Node) -> bool:
        """Whether a node is one."""
        return node.op == "call_function" and op_name(node) == "aten.logsumexp.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Always possible for floats."""
        is_float = node.args[0].meta["val"].dtype.is_floating_point
        return None if is_float else "it reduces integers"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Replace it."""
        new, x, dims = Chain(editor, node), node.args[0], _dims(node)
        largest = new(aten.amax.default, x, dims, True)
        largest = new(aten.masked_fill.Scalar, largest, new(aten.isinf.default, largest), 0.0)
        grown = new(aten.exp.default, new(aten.sub.Tensor, x, largest))
        total = new(aten.log.default, new(aten.sum.dim_IntList, grown, dims, True))
        result = new(aten.add.Tensor, total, largest)
        editor.replace(node, _dropped(new, result, dims, bool(argument(node, 2, "keepdim", False))))


class Variance:
    """sum((x - mean)^2) / max(n - correction, 0), and its square root."""

    name = "variance"

    def match(self, node: fx.Node) -> bool:
        """Whether a node is a variance or a standard deviation."""
        return node.op == "call_function" and op_name(node) in VARIANCES

    def check(self, node: fx.Node, program: Program) -> str | None:
        """The number of elements must be known, or not matter."""
        sizes = [program.shape(node.args[0])[dim] for dim in _dims(node)]
        is_known = all(isinstance(size, int) for size in sizes)
        return (
            None if is_known or _correction(node) == 0 else "it divides by a symbolic size less 1"
        )

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Replace it, with the two-pass variance."""
        new, x, dims = Chain(editor, node), node.args[0], _dims(node)
        keeps = bool(_keeps(node))
        mean = new(aten.mean.dim, x, dims, True)
        centred = new(aten.sub.Tensor, x, mean)
        square, correction = new(aten.mul.Tensor, centred, centred), _correction(node)
        if correction == 0:
            variance = new(aten.mean.dim, square, dims, True)
        else:
            count = float(torch.Size([x.meta["val"].shape[dim] for dim in dims]).numel())
            total = new(aten.sum.dim_IntList, square, dims, True)
            variance = new(aten.div.Tensor, total, max(count - correction, 0.0))
        if op_name(node) in DEVIATIONS:
            variance = new(aten.sqrt.default, variance)
        if op_name(node) not in MEANS:
            editor.replace(node, _dropped(new, variance, dims, keeps))
            return
        parts = [_dropped(new, part, dims, keeps) for part in (variance, mean)]
        for user in list(node.users):
            editor.replace(user, parts[user.args[1]])


def _correction(node: fx.Node) -> float:
    """What is taken off the number of elements."""
    if op_name(node).endswith(".dim"):
        return 1.0 if argument(node, 2, "unbiased", True) else 0.0
    given = node.kwargs.get("correction")
    return 1.0 if given is None else float(given)


def _keeps(node: fx.Node) -> Any:
    if op_name(node).endswith(".dim"):
        return argument(node, 3, "keepdim", False)
    return node.kwargs.get("keepdim", False)
