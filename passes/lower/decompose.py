"""Spell out norms, softmax and run-time quantization as row reductions and elementwise operators.

The row kernel then needs no code of its own for any of them, and whatever surrounds them fuses.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.one_row import ONE_ROW
from effc.passes.lower.chain import Chain, argument
from effc.passes.lower.decompose_reductions import LogSumExp, Variance

aten = torch.ops.aten
WITH_BIAS = (
    "aten.linear.default", "aten.conv2d.default", "effc.linear_half.default",
    "effc.conv2d_half.default",
)  # fmt: skip


@dataclass(frozen=True)
class DecomposeRows(Pass):
    """Replace row operators along the last dimension by reductions and elementwise operators."""

    name: ClassVar[str] = "decompose-rows"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply every rule until none fits."""
        rules = (
            _SplitBias(),
            _LayerNorm(),
            _RmsNorm(),
            _Softmax(),
            _GroupNorm(),
            _QuantizeDynamic(),
            _QuantizeSymmetric(),
            _Split(),
            _Stack(),
            *ONE_ROW,
            _Pool1d(),
            LogSumExp(),
            Variance(),
        )
        rewrites = apply(program, rules)
        return Outcome(rewrites.changed, dict(rewrites.fired), tuple(rewrites.refusals))


class _SplitBias:
    name = "split-bias"

    def match(self, node: fx.Node) -> bool:
        return (
            node.op == "call_function"
            and op_name(node) in WITH_BIAS
            and len(node.args) > 2
            and node.args[2] is not None
        )

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None if node.args[2].op == "get_attr" else "the bias is not a weight"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """The product without its bias, then an addition that fuses into its epilogue."""
        new, bias = Chain(editor, node), node.args[2]
        if "conv2d" in op_name(node):
            column = attribute(editor.module, bias.target).reshape(-1, 1, 1)
            bias = editor.weight(f"{bias.target}_column", column, node)
        product = new(node.target, *node.args[:2], None, *node.args[3:], **node.kwargs)
        editor.replace(node, new(aten.add.Tensor, product, bias))


class _LayerNorm:
    name = "layer-norm"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "aten.layer_norm.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None if len(node.args[1]) == 1 else "normalises more than the last dimension"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """(x - mean) / sqrt(variance + eps) * weight + bias, with the two-pass variance."""
        new, x = Chain(editor, node), node.args[0]
        weight, bias = argument(node, 2, "weight"), argument(node, 3, "bias")
        eps = argument(node, 4, "eps", 1e-5)
        mean = new(aten.mean.dim, x, [-1], True)
        centred = new(aten.sub.Tensor, x, mean)
        variance = new(aten.mean.dim, new(aten.mul.Tensor, centred, centred), [-1], True)
        inverse = new(aten.rsqrt.default, new(aten.add.Tensor, variance, eps))
        result = new(aten.mul.Tensor, centred, inverse)
        result = new(aten.mul.Tensor, result, weight) if weight is not None else result
        result = new(aten.add.Tensor, result, bias) if bias is not None else result
        editor.replace(node, result)


class _RmsNorm:
    name = "rms-norm"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "aten.rms_norm.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None if len(node.args[1]) == 1 else "normalises more than the last dimension"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """X / sqrt(mean(x^2) + eps) * weight."""
        new, x = Chain(editor, node), node.args[0]
        weight, eps = argument(node, 2, "weight"), argument(node, 3, "eps")
        eps = torch.finfo(x.meta["val"].dtype).eps if eps is None else eps
        square = new(aten.mean.dim, new(aten.mul.Tensor, x, x), [-1], True)
        inverse = new(aten.rsqrt.default, new(aten.add.Tensor, square, eps))
        result = new(aten.mul.Tensor, x, inverse)
        result = new(aten.mul.Tensor, result, weight) if weight is not None else result
        editor.replace(node, result)


class _Softmax:
    name = "softmax"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) in (
            "aten.softmax.int", "aten._softmax.default", "aten.log_softmax.int",
            "aten._log_softmax.default",
        )  # fmt: skip

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """exp(x - max) / sum(exp(x - max)), or x - max - log(sum(exp(x - max)))."""
        new, x = Chain(editor, node), node.args[0]
        rank = x.meta["val"].dim()
        dim = node.args[1] % rank
        shifted = new(aten.sub.Tensor, x, new(aten.amax.default, x, [dim], True))
        grown = new(aten.exp.default, shifted)
        total = new(aten.sum.dim_IntList, grown, [dim], True)
        if "log" in op_name(node):
            result = new(aten.sub.Tensor, shifted, new(aten.log.default, total))
        else:
            result = new(aten.mul.Tensor, grown, new(aten.reciprocal.default, total))
        editor.replace(node, result)


class _GroupNorm:
    name = "group-norm"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "aten.group_norm.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """A layer norm without weights over each group, then scale and shift per channel."""
        new, x, groups = Chain(editor, node), node.args[0], node.args[1]
        weight, bias = argument(node, 2, "weight"), argument(node, 3, "bias")
        eps = argument(node, 4, "eps", 1e-5)
        shape = list(x.meta["val"].shape)
        sizes = [new(aten.sym_size.int, x, d) if not isinstance(s, int) else s
                 for d, s in enumerate(shape)]  # fmt: skip
        rows = new(aten.reshape.default, x, [sizes[0], groups, -1])
        length = rows.meta["val"].shape[-1]
        rows = new(aten.layer_norm.default, rows, [length], None, None, eps)
        result = new(aten.reshape.default, rows, sizes)
        for tensor, op in ((weight, aten.mul.Tensor), (bias, aten.add.Tensor)):
            if tensor is not None:
                column = new(aten.view.default, tensor, [-1] + [1] * (len(shape) - 2))
                result = new(op, result, column)
        editor.replace(node, result)


class _QuantizeDynamic:
    name = "quantize-dynamic"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "effc.quantize_dynamic.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """The reference of `effc.quantize_dynamic`, operator by operator."""
        new = Chain(editor, node)
        x, dims, qmin, qmax, dtype = node.args
        low = new(aten.clamp_max.default, new(aten.amin.default, x, dims, True), 0.0)
        high = new(aten.clamp_min.default, new(aten.amax.default, x, dims, True), 0.0)
        factor = float(torch.tensor(1.0 / (qmax - qmin), dtype=torch.float32))
        step = new(aten.mul.Tensor, new(aten.sub.Tensor, high, low), factor)
        scale = new(aten.where.ScalarOther, new(aten.gt.Scalar, step, 0), step, 1.0)
        inverse = new(aten.reciprocal.default, scale)
        rounded = new(aten.round.default, new(aten.mul.Tensor, low, inverse))
        shifted = new(aten.rsub.Scalar, rounded, qmin)
        zero = new(aten.clamp.default, shifted, qmin, qmax)
        zero_point = new(aten._to_copy.default, zero, dtype=torch.int32)
        quantize = torch.ops.effc.quantize_scaled.default
        codes = new(quantize, x, inverse, zero_point, qmin, qmax, dtype)
        for user in list(node.users):
            editor.replace(user, (codes, scale, zero_point)[user.args[1]])


class _QuantizeSymmetric:
    name = "quantize-symmetric"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "effc.quantize_symmetric.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """The reference of `effc.quantize_symmetric`, operator by operator."""
        new = Chain(editor, node)
        x, dims, limit, dtype = node.args
        largest = new(aten.amax.default, new(aten.abs.default, x), dims, True)
        factor = float(torch.tensor(1.0 / limit, dtype=torch.float32))
        step = new(aten.mul.Tensor, largest, factor)
        scale = new(aten.where.ScalarOther, new(aten.gt.Scalar, step, 0), step, 1.0)
        inverse = new(aten.reciprocal.default, scale)
        quantize = torch.ops.effc.quantize_scaled.default
        codes = new(quantize, x, inverse, None, -limit, limit, dtype)
        for user in list(node.users):
            editor.replace(user, (codes, scale)[user.args[1]])


class _Split:
    name = "split"

    def match(self, node: fx.Node) -> bool:
        return (
            node.op == "call_function"
            and op_name(node) == "getitem"
            and op_name(node.args[0]) in SPLITS
        )

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """A part of a split as a slice (or, for unbind, a select)."""
        new = Chain(editor, node)
        whole, position = node.args[0], node.args[1]
        x, dim = whole.args[0], _split_dim(whole)
        if op_name(whole) == "aten.unbind.int":
            editor.replace(node, new(aten.select.int, x, dim, position))
            return
        sizes = [part.shape[dim] for part in whole.meta["val"]]
        start = sum(sizes[:position])
        editor.replace(node, new(aten.slice.Tensor, x, dim, start, start + sizes[position]))


class _Stack:
    name = "stack"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "aten.stack.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """A concatenation along a new dimension."""
        new, parts = Chain(editor, node), node.args[0]
        dim = argument(node, 1, "dim", 0) % node.meta["val"].dim()
        raised = [new(aten.unsqueeze.default, part, dim) for part in parts]
        editor.replace(node, new(aten.cat.default, raised, dim))


class _Pool1d:
    name = "pool-1d"

    def match(self, node: fx.Node) -> bool:
        return node.op == "call_function" and op_name(node) == "aten.adaptive_avg_pool1d.default"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None if node.args[0].meta["val"].dim() == 3 else "the input has no batch"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Pooling of images with one row."""
        new = Chain(editor, node)
        image = new(aten.unsqueeze.default, node.args[0], 2)
        pooled = new(aten.adaptive_avg_pool2d.default, image, [1, *node.args[1]])
        editor.replace(node, new(aten.squeeze.dim, pooled, 2))


SPLITS = (
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.unbind.int",
)


def _split_dim(node: fx.Node) -> int:
    position = 1 if op_name(node) == "aten.unbind.int" else 2
    return argument(node, position, "dim", 0) % node.args[0].meta["val"].dim()
