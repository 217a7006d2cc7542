"""Coupling of products: what is summed over is paired, the rest is kept apart."""

from typing import Any

from effc.ir.coupling.atoms import Axes, Axis
from effc.ir.coupling.call import CONVOLVED, HEAD, HEAD_WIDTH, LINEAR, Call
from effc.ir.coupling.movement import fixed
from effc.ir.coupling.relations import product


def linear(call: Call) -> Axes:
    """`linear(x, weight [out, in], bias [out])`."""
    x, (out, features) = call.axes(call["input"]), call.axes(call["weight"])
    call.equate(x[-1], features)
    for axis in call.axes(call["bias"]):
        call.equate(out, axis)
    call.role(call["weight"], 0, "out")
    call.role(call["weight"], 1, "in")
    call.tag(out, LINEAR)
    return (*x[:-1], out)


def matrix(call: Call) -> Axes:
    """`matmul`, `mm`, `bmm`."""
    first, second = call.node.args[:2]
    return _multiplied(call, first, second)


def matrix_plus(call: Call) -> Axes:
    """`addmm`, `baddbmm`: a product added to the first argument."""
    added, first, second = call.node.args[:3]
    found = _multiplied(call, first, second)
    axes, sizes = call.axes(added), call.shape(added)
    for at in range(-len(sizes), 0):
        if sizes[at] == call.output[at] and sizes[at] != 1:
            call.equate(found[at], axes[at])
    return found


def _multiplied(call: Call, first: Any, second: Any) -> Axes:
    a, b = call.axes(first), call.axes(second)
    call.equate(a[-1], b[-2] if len(b) > 1 else b[-1])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    lead = _broadcast(call, (first, a[:-2]), (second, b[:-2]))
    constants = call.state.constants
    if first not in constants and second not in constants:
        for axis in lead:
            call.tag(axis, HEAD)
        for axis in (a[-1], *columns):
            call.tag(axis, HEAD_WIDTH)
    elif second in constants and len(b) == 2:
        call.role(second, 0, "in")
        call.role(second, 1, "out")
        for axis in columns:
            call.tag(axis, LINEAR)
    return (*lead, *rows, *columns)


def _broadcast(call: Call, *operands: tuple[Any, Axes]) -> Axes:
    """Axes of leading dimensions, the sizes of which may be 1 in one operand."""
    rank = max(len(axes) for _, axes in operands)
    found: list[Axis | None] = []
    for at in range(-rank, 0):
        axes = [
            axes[at]
            for node, axes in operands
            if len(axes) >= -at and call.shape(node)[: len(axes)][at] != 1
        ]
        for other in axes[1:]:
            call.equate(axes[0], other)
        found.append(axes[0] if axes else None)
    return tuple(found)


def attention(call: Call) -> Axes:
    """`scaled_dot_product_attention(query [..., heads, L, E], key, value)`; keys may have fewer."""
    query, key, value = (call.axes(call[name]) for name in ("query", "key", "value"))
    call.equate(query[-1], key[-1])
    lead: list[Axis | None] = list(_broadcast(call, (call["query"], query[:-2])))
    for name, axes in (("key", key), ("value", value)):
        sizes, own = call.shape(call["query"]), call.shape(call[name])
        for at in range(-len(axes), -2):
            if own[at] == sizes[at]:
                call.equate(lead[at + 2], axes[at])
            elif own[at] != 1:  # grouped queries: each head of the keys serves several
                ratio = sizes[at] // own[at]
                group, _ = call.factor(lead[at + 2], own[at], ratio)
                call.equate(group, axes[at])
        call.equate(key[-2], value[-2])
    _masked(call, lead, query, key)
    for axis in lead[-1:]:
        call.tag(axis, HEAD)
    for axis in (query[-1], value[-1]):
        call.tag(axis, HEAD_WIDTH)
    call.pin(query[-2], "it is a position of the sequence")
    call.pin(key[-2], "it is a position of the sequence")
    return (*lead, query[-2], value[-1])


def _masked(call: Call, lead: list[Axis | None], query: Axes, key: Axes) -> None:
    mask = call.arguments.get("attn_mask")
    if mask is None:
        return
    axes, sizes = call.axes(mask), call.shape(mask)
    scores = [*lead, query[-2], key[-2]]
    for at in range(-len(sizes), 0):
        if sizes[at] != 1:
            call.equate(scores[at], axes[at])


def convolution(call: Call) -> Axes:
    """`conv(x [batch, in, ...], weight [out, in / groups, ...], bias [out])`."""
    return _convolved(call, is_transposed=False)


def transposed_convolution(call: Call) -> Axes:
    """`conv_transpose(x [batch, in, ...], weight [in, out / groups, ...], bias [out])`."""
    return _convolved(call, is_transposed=True)


def general_convolution(call: Call) -> Axes:
    """`convolution`, which says itself whether it is transposed."""
    return _convolved(call, is_transposed=bool(call["transposed"]))


def _convolved(call: Call, is_transposed: bool) -> Axes:
    x, weight = call.axes(call["input"]), call.axes(call["weight"])
    if len(x) != len(weight):  # without a batch
        unbatched: Axes = fixed(call)
        return unbatched
    for axis in (*x[2:], *weight[2:]):
        call.pin(axis, "it is a position of the window")
    sizes, kernel = call.shape(call["input"]), call.shape(call["weight"])
    groups = call["groups"]
    grouped, within = weight[:2]
    own, other = (x[1], None) if is_transposed else (None, x[1])
    if is_transposed:
        call.equate(own, grouped)
        group, _ = call.factor(grouped, groups, kernel[0] // groups)
        out = product(group, groups, within, kernel[1]) if groups > 1 else within
    else:
        group, channel = call.factor(other, groups, sizes[1] // groups)
        call.equate(channel, within)
        if groups > 1:
            owner, _ = call.factor(grouped, groups, kernel[0] // groups)
            call.equate(owner, group)
        out = grouped
    for axis in call.axes(call["bias"]):
        call.equate(out, axis)
    call.role(call["weight"], 0, "in" if is_transposed else "out")
    call.role(call["weight"], 1, "out" if is_transposed else "in")
    call.tag(out, CONVOLVED)
    return (x[0], out, *[None] * (len(x) - 2))
