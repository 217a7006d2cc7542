"""Spell out operators without a kernel of their own in terms of operators that have one.

They occur in few models and never where the time goes: sorting, writing by index, transposed and
three-dimensional convolutions, products of integers. What they become costs more than a kernel
would: sorting and writing by index compare every element with every other.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.ops.half import HALVES
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.matching import NodeRule, is_call, is_constant, rank
from effc.passes.lower.chain import Chain
from effc.passes.lower.rare_convolutions import RULES as CONVOLUTIONS
from effc.passes.lower.rare_convolutions import compute_in_float32

aten = torch.ops.aten
SORTS = (aten.sort.stable, aten.sort.default, aten.topk.default)
SCATTERS = (aten.scatter.src, aten.scatter_reduce.two)
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default, aten.linear.default)
PLAIN_FLOATS = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class DecomposeRare(Pass):
    """Replace operators without a kernel by operators that have one."""

    name: ClassVar[str] = "decompose-rare"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply every rule until none fits."""
        rewrites = apply(program, RULES)
        return Outcome(rewrites.changed, dict(rewrites.fired), tuple(rewrites.refusals))


def _at(node: fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _is_part_of_sort(node: fx.Node) -> bool:
    return node.op == "call_function" and op_name(node) == "getitem" and is_call(
        node.args[0], *SORTS
    )  # fmt: skip


def _has_no_numbers(node: fx.Node, program: Program) -> str | None:
    """Sizes must be numbers where an operator is spelled out with constants of that size."""
    tensors = [arg.meta["val"] for arg in node.all_input_nodes if hasattr(arg.meta["val"], "shape")]
    known = all(isinstance(size, int) for tensor in tensors for size in tensor.shape)
    return None if known else "a size is symbolic"


def _sort_sizes(node: fx.Node, program: Program) -> str | None:
    whole: Any = node.args[0]
    return _has_no_numbers(whole, program)


@dataclass(frozen=True)
class _Order:
    """What a sort does."""

    x: fx.Node
    dim: int
    descending: bool
    count: int | None


def _order_of(node: fx.Node) -> _Order:
    x = node.args[0]
    last = rank(x)
    if is_call(node, aten.topk.default):
        dim, largest = _at(node, 2, -1), _at(node, 3, True)
        return _Order(x, dim % last, bool(largest), node.args[1])
    given = {**dict(zip(_sort_names(node), node.args[1:], strict=False)), **node.kwargs}
    return _Order(x, given.get("dim", -1) % last, bool(given.get("descending", False)), None)


def _sort_names(node: fx.Node) -> tuple[str, ...]:
    return ("stable", "dim", "descending") if node.target is aten.sort.stable else (
        "dim", "descending"
    )  # fmt: skip


def _spell_out_sort(node: fx.Node, editor: Editor) -> None:
    """The rank of an element is how many stand before it; the inverse of ranks is the order."""
    whole: Any = node.args[0]
    new, order = Chain(editor, node), _order_of(whole)
    size, dim = order.x.meta["val"].shape[order.dim], order.dim
    own = new(aten.unsqueeze.default, order.x, dim)  # [..., 1, size]
    other = new(aten.unsqueeze.default, order.x, dim + 1)  # [..., size, 1]
    compare = aten.gt.Tensor if order.descending else aten.lt.Tensor
    trailing = [1] * (rank(order.x) - 1 - dim)
    places = new(aten.arange.default, size)
    first = new(aten.view.default, places, [size, 1, *trailing])
    second = new(aten.view.default, places, [1, size, *trailing])
    is_tied = new(aten.logical_and.default, new(aten.eq.Tensor, other, own),
                  new(aten.lt.Tensor, first, second))  # fmt: skip
    before = new(aten.logical_or.default, new(compare, other, own), is_tied)
    counted = new(aten._to_copy.default, before, dtype=torch.int64)
    ranks = new(aten.unsqueeze.default, new(aten.sum.dim_IntList, counted, [dim]), dim)
    count = size if order.count is None else order.count
    wanted = new(aten.view.default, new(aten.arange.default, count), [count, 1, *trailing])
    is_here = new(aten.eq.Tensor, ranks, wanted)
    zero = new(aten.scalar_tensor.default, 0, dtype=torch.int64)
    found = new(aten.where.self, is_here, second, zero)
    indices = new(aten.sum.dim_IntList, found, [dim + 1])
    result = indices if node.args[1] else new(aten.gather.default, order.x, dim, indices)
    editor.replace(node, result)


def _is_scatter(node: fx.Node) -> bool:
    return is_call(node, *SCATTERS)


def _spell_out_scatter(node: fx.Node, editor: Editor) -> None:
    """Every element looks for what is written to it, the last of several."""
    new = Chain(editor, node)
    x, dim, indices, updates = node.args[:4]
    dim %= rank(x)
    shape = list(x.meta["val"].shape)
    places = list(indices.meta["val"].shape)
    updates = _cut(new, updates, places)
    for axis, (have, want) in enumerate(zip(places, shape, strict=True)):
        if axis != dim and have != want:  # rows without updates look for nothing
            pad = [0, 0] * (len(shape) - 1 - axis) + [0, want - have]
            indices = new(aten.constant_pad_nd.default, indices, pad, -1)
            updates = new(aten.constant_pad_nd.default, updates, pad, 0)
    count, trailing = places[dim], [1] * (len(shape) - 1 - dim)
    target = new(aten.view.default, new(aten.arange.default, shape[dim]), [-1, 1, *trailing])
    is_hit = new(aten.eq.Tensor, new(aten.unsqueeze.default, indices, dim), target)
    if is_call(node, aten.scatter.src):
        editor.replace(node, _last_written(new, x, updates, is_hit, dim, count, trailing))
        return
    editor.replace(node, _combined(new, node.args[4], x, updates, is_hit, dim))


def _cut(new: Chain, updates: fx.Node, shape: list[int]) -> fx.Node:
    for axis, (have, want) in enumerate(zip(updates.meta["val"].shape, shape, strict=True)):
        if have != want:
            updates = new(aten.slice.Tensor, updates, axis, 0, want)
    return updates


def _last_written(
    new: Chain,
    x: fx.Node,
    updates: fx.Node,
    is_hit: fx.Node,
    dim: int,
    count: int,
    trailing: list[int],
) -> fx.Node:
    numbers = new(aten.view.default, new(aten.arange.default, count), [1, count, *trailing])
    nothing = new(aten.scalar_tensor.default, -1, dtype=torch.int64)
    last = new(aten.amax.default, new(aten.where.self, is_hit, numbers, nothing), [dim + 1])
    chosen = new(aten.gather.default, updates, dim, new(aten.clamp.default, last, 0))
    return new(aten.where.self, new(aten.ge.Scalar, last, 0), chosen, x)


NEUTRAL = {"sum": 0, "prod": 1, "amax": None, "amin": None}


def _combined(
    new: Chain, reduction: str, x: fx.Node, updates: fx.Node, is_hit: fx.Node, dim: int
) -> fx.Node:
    dtype = x.meta["val"].dtype
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    neutral: Any = {"amax": limits.min, "amin": limits.max}.get(reduction, NEUTRAL[reduction])
    if dtype.is_floating_point and reduction in ("amax", "amin"):
        neutral = float("-inf") if reduction == "amax" else float("inf")
    rest = new(aten.scalar_tensor.default, neutral, dtype=dtype)
    found = new(aten.where.self, is_hit, new(aten.unsqueeze.default, updates, dim), rest)
    match reduction:
        case "sum":
            total = new(aten.sum.dim_IntList, found, [dim + 1], dtype=dtype)
            return new(aten.add.Tensor, x, total)
        case "prod":
            return new(aten.mul.Tensor, x, new(aten.prod.dim_int, found, dim + 1, dtype=dtype))
        case "amax":
            return new(aten.maximum.default, x, new(aten.amax.default, found, [dim + 1]))
    return new(aten.minimum.default, x, new(aten.amin.default, found, [dim + 1]))


def _is_plain_product(node: fx.Node) -> bool:
    """A product no kernel multiplies: of other types, or of a vector that is no weight's row."""
    if not is_call(node, *PRODUCTS):
        return False
    has_vector = node.target is aten.matmul.default and 1 in map(rank, node.args[:2])
    dtype = node.meta["val"].dtype
    is_loose = dtype == torch.bfloat16 and not is_constant(node.args[1])
    return has_vector or is_loose or dtype not in PLAIN_FLOATS


def _is_loose_linear(node: fx.Node) -> bool:
    return is_call(node, aten.linear.default) and not is_constant(node.args[1])


def _spell_out_linear(node: fx.Node, editor: Editor) -> None:
    """A product with a matrix that is computed when the program runs."""
    new, (x, weight) = Chain(editor, node), node.args[:2]
    turned = new(aten.permute.default, weight, [1, 0])
    matrix = new(aten.clone.default, turned, memory_format=torch.contiguous_format)
    result = new(aten.matmul.default, x, matrix)
    bias = _at(node, 2)
    editor.replace(node, result if bias is None else new(aten.add.Tensor, result, bias))


def _spell_out_product(node: fx.Node, editor: Editor) -> None:
    """16-bit floats go through float32; integers and float64 are multiplied and summed."""
    new, (x, y) = Chain(editor, node), node.args[:2]
    dtype = node.meta["val"].dtype
    if dtype in HALVES:
        compute_in_float32(node, editor)
        return
    bias = _at(node, 2) if is_call(node, aten.linear.default) else None
    if is_call(node, aten.linear.default):
        y = new(aten.permute.default, y, [1, 0])
    squeezed = []
    if rank(x) == 1:
        x = new(aten.unsqueeze.default, x, 0)
        squeezed.append(-2)
    if rank(y) == 1:
        y = new(aten.unsqueeze.default, y, 1)
        squeezed.append(-1)
    left, right = new(aten.unsqueeze.default, x, -1), new(aten.unsqueeze.default, y, -3)
    terms = new(aten.mul.Tensor, left, right)
    result = new(aten.sum.dim_IntList, terms, [-2], dtype=dtype)
    for axis in sorted(squeezed):
        result = new(aten.squeeze.dim, result, axis)
    result = result if bias is None else new(aten.add.Tensor, result, bias)
    editor.replace(node, result)


def _is_deep_norm(node: fx.Node) -> bool:
    return is_call(node, aten.layer_norm.default, aten.rms_norm.default) and len(node.args[1]) > 1


def _spell_out_norm(node: fx.Node, editor: Editor) -> None:
    """A norm over several dimensions as one over the last, then the weights."""
    new, x = Chain(editor, node), node.args[0]
    shape, count = list(x.meta["val"].shape), len(node.args[1])
    length = 1
    for size in shape[len(shape) - count :]:
        length = length * size
    rows = new(aten.reshape.default, x, [*shape[: len(shape) - count], length])
    if is_call(node, aten.layer_norm.default):
        given = [_at(node, 2), _at(node, 3)]
        rows = new(aten.layer_norm.default, rows, [length], None, None, _at(node, 4, 1e-5))
    else:
        given = [_at(node, 2), None]
        rows = new(aten.rms_norm.default, rows, [length], None, _at(node, 3))
    result = new(aten.reshape.default, rows, shape)
    for tensor, op in zip(given, (aten.mul.Tensor, aten.add.Tensor), strict=True):
        result = result if tensor is None else new(op, result, tensor)
    editor.replace(node, result)


RULES = (
    NodeRule("sort", _is_part_of_sort, _spell_out_sort, _sort_sizes),
    NodeRule("scatter", _is_scatter, _spell_out_scatter, _has_no_numbers),
    NodeRule("linear-of-inputs", _is_loose_linear, _spell_out_linear),
    NodeRule("product", _is_plain_product, _spell_out_product),
    NodeRule("norm-over-dimensions", _is_deep_norm, _spell_out_norm, _has_no_numbers),
    *CONVOLUTIONS,
)
