"""Convolutions and pooling without a kernel, in terms of plain two-dimensional ones."""

import itertools
from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.ops.half import HALVES
from effc.ir.program import Program
from effc.passes.clean.matching import NodeRule, is_call, is_constant, rank
from effc.passes.lower.chain import Chain

aten = torch.ops.aten
TRANSPOSED = (
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)


def _at(node: fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _pair(value: Any, count: int) -> list[int]:
    if isinstance(value, int):
        return [value] * count
    return list(value) * (count if len(value) == 1 else 1)


def _fixed(node: fx.Node, program: Program) -> str | None:
    """Space and weights must have known sizes; the batch may be symbolic."""
    sizes = [*node.args[0].meta["val"].shape[1:], *node.args[1].meta["val"].shape]
    return None if all(isinstance(size, int) for size in sizes) else "a size is symbolic"


def _is_transposed(node: fx.Node) -> bool:
    return is_call(node, *TRANSPOSED)


def _spell_out_transposed(node: fx.Node, editor: Editor) -> None:
    """A convolution of the input with zeros between its elements, by the reversed weights."""
    new, (x, weight) = Chain(editor, node), node.args[:2]
    count = rank(x) - 2
    bias = _at(node, 2, None)
    stride, padding = _pair(_at(node, 3, 1), count), _pair(_at(node, 4, 0), count)
    extra, groups = _pair(_at(node, 5, 0), count), _at(node, 6, 1)
    dilation = _pair(_at(node, 7, 1), count)
    kernel = list(weight.meta["val"].shape[2:])
    for axis in range(count):
        x = _spread(new, x, 2 + axis, stride[axis])
    pads: list[int] = []
    for axis in reversed(range(count)):
        reach = dilation[axis] * (kernel[axis] - 1) - padding[axis]
        pads += [reach, reach + extra[axis]]
    x = new(aten.constant_pad_nd.default, x, pads, 0.0)
    inputs, outputs = weight.meta["val"].shape[:2]
    parts = new(aten.view.default, weight, [groups, inputs // groups, outputs, *kernel])
    parts = new(aten.permute.default, parts, [0, 2, 1, *range(3, 3 + count)])
    shape = [groups * outputs, inputs // groups, *kernel]
    turned = new(aten.reshape.default, parts, shape)
    turned = new(aten.flip.default, turned, list(range(2, 2 + count)))
    plain = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[count]
    ones, zeros = [1] * count, [0] * count
    editor.replace(node, new(plain, x, turned, bias, ones, zeros, dilation, groups))


def _spread(new: Chain, x: fx.Node, dim: int, step: int) -> fx.Node:
    """Zeros between the elements along a dimension."""
    if step == 1:
        return x
    size, last = x.meta["val"].shape[dim], rank(x)
    shape = list(x.meta["val"].shape)
    raised = new(aten.unsqueeze.default, x, dim + 1)
    pads = [0, 0] * (last - 1 - dim) + [0, step - 1]
    filled = new(aten.constant_pad_nd.default, raised, pads, 0.0)
    joined = [*shape[:dim], size * step, *shape[dim + 1 :]]
    batch = [new(aten.sym_size.int, x, 0)] if not isinstance(shape[0], int) else [shape[0]]
    flat = new(aten.reshape.default, filled, [*batch, *joined[1:]])
    return new(aten.slice.Tensor, flat, dim, 0, (size - 1) * step + 1)


def _is_deep(node: fx.Node) -> bool:
    return is_call(node, aten.conv3d.default)


def _spell_out_deep(node: fx.Node, editor: Editor) -> None:
    """A sum of two-dimensional convolutions, one per plane of the kernel."""
    new, (x, weight) = Chain(editor, node), node.args[:2]
    stride, padding = _pair(_at(node, 3, 1), 3), _pair(_at(node, 4, 0), 3)
    dilation, groups = _pair(_at(node, 5, 1), 3), _at(node, 6, 1)
    if padding[0]:
        pads = [0, 0, 0, 0, padding[0], padding[0]]
        x = new(aten.constant_pad_nd.default, x, pads, 0.0)
    batch, channels, depth, *space = x.meta["val"].shape
    planes = (depth - dilation[0] * (weight.meta["val"].shape[2] - 1) - 1) // stride[0] + 1
    total = None
    for place in range(weight.meta["val"].shape[2]):
        start = place * dilation[0]
        end = start + (planes - 1) * stride[0] + 1
        part = new(aten.slice.Tensor, x, 2, start, end, stride[0])
        rows = new(aten.permute.default, part, [0, 2, 1, 3, 4])
        rows = new(aten.reshape.default, rows, [batch * planes, channels, *space])
        kernel = new(aten.select.int, weight, 2, place)
        settings = [stride[1:], padding[1:], dilation[1:], groups]
        result = new(aten.conv2d.default, rows, kernel, None, *settings)
        total = result if total is None else new(aten.add.Tensor, total, result)
    assert total is not None  # a kernel has at least one plane
    _, outputs, *size = total.meta["val"].shape
    maps = new(aten.reshape.default, total, [batch, planes, outputs, *size])
    maps = new(aten.permute.default, maps, [0, 2, 1, 3, 4])
    bias = _at(node, 2, None)
    if bias is not None:
        maps = new(aten.add.Tensor, maps, new(aten.view.default, bias, [-1, 1, 1, 1]))
    editor.replace(node, maps)


def compute_in_float32(node: fx.Node, editor: Editor) -> None:
    """The same operator of 16-bit floats with sums that are not rounded to 16 bits."""
    new = Chain(editor, node)
    given = [
        new(aten._to_copy.default, part, dtype=torch.float32) if isinstance(part, fx.Node) else part
        for part in node.args
    ]
    result = new(node.target, *given)
    editor.replace(node, new(aten._to_copy.default, result, dtype=node.meta["val"].dtype))


def _is_loose(node: fx.Node) -> bool:
    plain = (aten.conv1d.default, aten.conv2d.default)
    return is_call(node, *plain) and not is_constant(node.args[1])


def _spell_out_loose(node: fx.Node, editor: Editor) -> None:
    """Weights that are computed when the program runs: a sum over the kernel's positions."""
    new, (x, weight) = Chain(editor, node), node.args[:2]
    count, bias = rank(x) - 2, _at(node, 2, None)
    if x.meta["val"].dtype in HALVES:
        compute_in_float32(node, editor)
        return
    stride, padding = _pair(_at(node, 3, 1), count), _pair(_at(node, 4, 0), count)
    dilation, groups = _pair(_at(node, 5, 1), count), _at(node, 6, 1)
    pads = [width for one in reversed(padding) for width in (one, one)]
    x = new(aten.constant_pad_nd.default, x, pads, 0.0) if any(pads) else x
    batch, *space = [x.meta["val"].shape[dim] for dim in (0, *range(2, rank(x)))]
    outputs, inputs, *kernel = weight.meta["val"].shape
    steps = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip(space, dilation, kernel, stride, strict=True)
    ]
    x = new(aten.reshape.default, x, [batch, groups, 1, inputs, *space])
    rows = [1, groups, outputs // groups, inputs]
    total = None
    for offset in itertools.product(*map(range, kernel)):
        part, factor = x, weight
        for axis, place in enumerate(offset):
            start = place * dilation[axis]
            end = start + (steps[axis] - 1) * stride[axis] + 1
            part = new(aten.slice.Tensor, part, 4 + axis, start, end, stride[axis])
            factor = new(aten.select.int, factor, 2, place)
        factor = new(aten.reshape.default, factor, [*rows, *[1] * count])
        terms = new(aten.mul.Tensor, part, factor)
        result = new(aten.sum.dim_IntList, terms, [3])
        total = result if total is None else new(aten.add.Tensor, total, result)
    assert total is not None  # a kernel has at least one position
    maps = new(aten.reshape.default, total, [batch, outputs, *steps])
    if bias is not None:
        maps = new(aten.add.Tensor, maps, new(aten.view.default, bias, [-1, *[1] * count]))
    editor.replace(node, maps)


def _is_line_pool(node: fx.Node) -> bool:
    return is_call(node, aten.max_pool1d.default) and rank(node.args[0]) == 3


def _spell_out_line_pool(node: fx.Node, editor: Editor) -> None:
    """Pooling of images with one row."""
    new, x = Chain(editor, node), node.args[0]
    kernel = _pair(node.args[1], 1)
    stride = _pair(_at(node, 2, kernel) or kernel, 1)
    padding, dilation = _pair(_at(node, 3, 0), 1), _pair(_at(node, 4, 1), 1)
    settings = [[1, *kernel], [1, *stride], [0, *padding], [1, *dilation]]
    image = new(aten.unsqueeze.default, x, 2)
    pooled = new(aten.max_pool2d.default, image, *settings, _at(node, 5, False))
    editor.replace(node, new(aten.squeeze.dim, pooled, 2))


RULES = (
    NodeRule("transposed-convolution", _is_transposed, _spell_out_transposed, _fixed),
    NodeRule("deep-convolution", _is_deep, _spell_out_deep, _fixed),
    NodeRule("convolution-by-inputs", _is_loose, _spell_out_loose, _fixed),
    NodeRule("pool-of-lines", _is_line_pool, _spell_out_line_pool),
)
