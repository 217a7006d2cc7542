"""Coupling of operators that move elements: views, slices, repetitions, gathers."""

import math
from typing import Any

from torch import fx

from effc.ir.coupling.atoms import Axes, Axis
from effc.ir.coupling.call import Call
from effc.ir.coupling.relations import joined, product


def reshaped(call: Call) -> Axes:
    """The same elements in the same order: dimensions are multiplied out and factored."""
    before, after = call.shape(call.first), call.output
    return regrouped(call, call.axes(call.first), before, after)


def regrouped(call: Call, axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes:
    """Axes under another shape of the same elements."""
    found: list[Axis | None] = [None] * len(after)
    for inner, outer in _blocks(before, after):
        sizes = [before[at] for at in inner]
        if len(inner) == 1 and len(outer) == 1:
            found[outer[0]] = axes[inner[0]]
            continue
        if all(axes[at] is None for at in inner):
            continue
        flat: Axis | None = None
        for number, at in enumerate(inner):
            flat = product(flat, math.prod(sizes[:number]), axes[at], before[at])
        for number, at in enumerate(outer):
            rest = math.prod(after[to] for to in outer[number + 1 :])
            found[at], flat = call.factor(flat, after[at], rest)
    return tuple(found)


def permuted(call: Call) -> Axes:
    """`permute`, `transpose`, `t`: dimensions change places."""
    axes = call.axes(call.first)
    return tuple(axes[at] for at in order_of(call))


def order_of(call: Call) -> list[int]:
    """The order in which a permutation takes the dimensions."""
    rank = len(call.shape(call.first))
    if "dims" in call.arguments:
        return [at % rank for at in call["dims"]]
    order = list(range(rank))
    first, second = (call.arguments.get("dim0", 0), call.arguments.get("dim1", 1))
    if rank > 1:
        first, second = first % rank, second % rank
        order[first], order[second] = order[second], order[first]
    return order


def expanded(call: Call) -> Axes:
    """A dimension of one element becomes many equal ones, any of which can go."""
    axes, before = call.axes(call.first), call.shape(call.first)
    found: list[Axis | None] = []
    sizes = call.node.meta["val"].shape
    for at, size in zip(range(-len(call.output), 0), call.output, strict=True):
        if -at <= len(before) and before[at] == size:
            found.append(axes[at])
        else:
            is_fixed = isinstance(sizes[at], int)
            found.append(call.state.atoms.axis(size) if is_fixed else None)
    return tuple(found)


def repeated(call: Call) -> Axes:
    """`repeat`: whole dimensions several times."""
    axes, before = call.axes(call.first), call.shape(call.first)
    lead = len(call.output) - len(before)
    found: list[Axis | None] = [None] * lead
    for at, (axis, size) in enumerate(zip(axes, before, strict=True)):
        times = call.output[lead + at] // max(size, 1)
        found.append(product(None, times, axis, size))
    return tuple(found)


def interleaved(call: Call) -> Axes:
    """`repeat_interleave`: every element several times in a row."""
    if call["dim"] is None:
        return (None,)
    found = list(call.axes(call.first))
    at = call["dim"] % len(found)
    size = call.shape(call.first)[at]
    found[at] = product(found[at], size, None, call.output[at] // size)
    return tuple(found)


def sliced(call: Call) -> Axes:
    """`slice`: a range of positions; with a step, whole steps stay together."""
    found = list(call.axes(call.first))
    at, size = call["dim"] % len(found), call.shape(call.first)[call["dim"]]
    axis, step = found[at], call["step"]
    start, end = slice_range(call, size)
    if axis is None:
        return tuple(found)
    if step == 1:
        found[at] = axis[start:end]
    elif size % step == 0 and start < step and end == size:
        found[at], places = call.factor(axis, size // step, step)
        call.pin(places, "a step picks positions by their place")
    else:
        call.pin(axis, "a step picks positions by their place")
        found[at] = axis[start:end:step]
    return tuple(found)


def slice_range(call: Call, size: int) -> tuple[int, int]:
    """First and last position of a slice of `size`."""
    start = 0 if call["start"] is None else call.state.number(call["start"])
    end = size if call["end"] is None else call.state.number(call["end"])
    low, high, _ = slice(start, end).indices(size)
    return low, max(low, high)


def selected(call: Call) -> Axes:
    """`select`: one position of a dimension, which must stay."""
    found = list(call.axes(call.first))
    axis = found.pop(call["dim"] % len(found))
    call.pin(axis, "one position is picked by its place")
    return tuple(found)


def divided(call: Call) -> list[Axes]:
    """`split`, `chunk`: ranges of positions one after another."""
    axes, start = call.axes(call.first), 0
    at = call["dim"] % len(axes)
    found = []
    for shape in call.outputs:
        part = list(axes)
        axis, end = part[at], start + shape[at]
        part[at] = None if axis is None else axis[start:end]
        found.append(tuple(part))
        start = end
    return found


def unbound(call: Call) -> list[Axes]:
    """`unbind`: every position of a dimension for itself."""
    part = list(call.axes(call.first))
    call.pin(part.pop(call["dim"] % len(part)), "positions are picked by their place")
    return [tuple(part)] * len(call.outputs)


def item(call: Call) -> Axes:
    """`getitem`: one of several results."""
    results = call.state.axes[call.first]
    found: Axes = results[call.node.args[1]]
    return found


def flipped(call: Call) -> Axes:
    """`flip`: dimensions in the opposite order."""
    found = list(call.axes(call.first))
    for at in call["dims"]:
        axis = found[at]
        found[at] = None if axis is None else axis[::-1]
    return tuple(found)


def rolled(call: Call) -> Axes:
    """`roll`: a dimension that is cut cannot be rolled by the same number."""
    found = call.axes(call.first)
    for at in call["dims"] or range(len(found)):
        call.pin(found[at], "positions move by a number of places")
    return found


def padded(call: Call) -> Axes:
    """`constant_pad_nd`: new positions at both ends, which can go like the others."""
    found, before = list(call.axes(call.first)), call.shape(call.first)
    amounts = list(call["pad"])
    for number in range(len(amounts) // 2):
        at = len(found) - 1 - number
        low, high = (call.state.number(amount) for amount in amounts[2 * number : 2 * number + 2])
        axis = found[at]
        if axis is None or (low == 0 and high == 0):
            continue
        if low < 0 or high < 0:
            call.pin(axis, "it is cropped")
            found[at] = None
            continue
        parts: list[tuple[Axis | None, int]] = [
            (call.state.atoms.axis(low) if low else None, low),
            (axis, before[at]),
            (call.state.atoms.axis(high) if high else None, high),
        ]
        found[at] = joined([part for part in parts if part[1]])
    return tuple(found)


def embedded(call: Call) -> Axes:
    """`embedding`: rows by index."""
    weight = call["weight"]
    rows, features = call.axes(weight)
    call.pin(rows, "rows are picked by index")
    call.role(weight, 1, "out")
    return (*call.axes(call["indices"]), features)


def indexed(call: Call) -> Axes:
    """`index`: the dimensions that are indexed stay, the others pass."""
    axes = call.axes(call.first)
    indices: list[Any] = list(call["indices"])
    places = [at for at, index in enumerate(indices) if index is not None]
    for at in places:
        call.pin(axes[at], "positions are picked by index")
    given = [indices[at] for at in places]
    is_mask = any(str(index.meta["val"].dtype) in ("torch.bool", "torch.uint8") for index in given)
    if is_mask or not places:
        return fixed(call)
    rank = max(len(call.shape(index)) for index in given)
    is_adjacent = places == list(range(places[0], places[-1] + 1))
    lead = places[0] if is_adjacent else 0
    rest = [axis for at, axis in enumerate(axes) if at not in places]
    _pin_all(call, given, "it is an index")
    return (*rest[:lead], *[None] * rank, *rest[lead:])


def index_selected(call: Call) -> Axes:
    """`index_select`: one dimension by index."""
    found = list(call.axes(call["self"]))
    at = call["dim"] % len(found)
    call.pin(found[at], "positions are picked by index")
    found[at] = None
    return tuple(found)


def spatial(dimensions: int) -> Any:
    """The rule of an operator whose last dimensions stay whole."""

    def rule(call: Call) -> Axes:
        axes = call.axes(call.first)
        for axis in axes[-dimensions:]:
            call.pin(axis, "neighbouring positions are read together")
        return (*axes[:-dimensions], *[None] * dimensions)

    return rule


def shuffled(call: Call) -> Axes:
    """`channel_shuffle`: groups and their channels change places."""
    found = list(call.axes(call.first))
    size, groups = call.output[1], call["groups"]
    group, channel = call.factor(found[1], groups, size // groups)
    found[1] = product(channel, size // groups, group, groups)
    return tuple(found)


def pixels_from_channels(call: Call) -> Axes:
    """`pixel_shuffle`: the channels of a block of pixels stay together."""
    axes, before = call.axes(call.first), call.shape(call.first)
    block = call["upscale_factor"] ** 2
    channel, places = call.factor(axes[-3], before[-3] // block, block)
    call.pin(places, "they become pixels")
    return (*axes[:-3], channel, None, None)


def channels_from_pixels(call: Call) -> Axes:
    """`pixel_unshuffle`: every channel becomes several that stay together."""
    axes, before = call.axes(call.first), call.shape(call.first)
    found = product(axes[-3], before[-3], None, call["downscale_factor"] ** 2)
    return (*axes[:-3], found, None, None)


def fixed(call: Call) -> Any:
    """An operator whose coupling is not known: nothing it reads can be cut."""
    _pin_all(call, call.tensors, "which positions it couples is not known")
    for node in call.node.all_input_nodes:
        for axes in several(call, node):
            for axis in axes:
                call.pin(axis, "which positions it couples is not known")
    return nothing(call.node)


def several(call: Call, node: fx.Node) -> list[Axes]:
    """Axes of all tensors of an argument."""
    found = call.state.axes.get(node, ())
    return found if isinstance(found, list) else [found]


def nothing(node: fx.Node) -> Any:
    """Axes none of which can be cut, for all that a node computes."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return [(None,) * getattr(part, "ndim", 0) for part in value]
    return (None,) * getattr(value, "ndim", 0)


def _pin_all(call: Call, nodes: list[fx.Node], text: str) -> None:
    for node in nodes:
        for axis in call.axes(node):
            call.pin(axis, text)


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of both shapes with equally many elements."""
    found: list[tuple[list[int], list[int]]] = []
    at, to = 0, 0
    while at < len(before) or to < len(after):
        inner, outer, left, right = [], [], 1, 1
        if at < len(before):
            inner, left, at = [at], before[at], at + 1
        if to < len(after) and not (inner and left == 1 and after[to] != 1):
            outer, right, to = [to], after[to], to + 1
        while left != right and left and right:
            if left < right:
                inner, left, at = [*inner, at], left * before[at], at + 1
            else:
                outer, right, to = [*outer, to], right * after[to], to + 1
        found.append((inner, outer))
    return found
