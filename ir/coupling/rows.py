"""Coupling of reductions, norms and pooling."""

from typing import Any

from effc.ir.coupling.atoms import Axis
from effc.ir.coupling.call import Call
from effc.ir.coupling.relations import product


def reduced(call: Call) -> Any:
    """Sums, means, extrema: over the positions that are left."""
    axes = call.axes(call.first)
    dims = reduced_dimensions(call)
    value = call.node.meta["val"]
    keeps = (value[0] if isinstance(value, tuple | list) else value).dim() == len(axes)
    if keeps:
        found = tuple(None if at in dims else axis for at, axis in enumerate(axes))
    else:
        found = tuple(axis for at, axis in enumerate(axes) if at not in dims)
    return [found] * len(value) if isinstance(value, tuple | list) else found


def reduced_dimensions(call: Call) -> list[int]:
    """The dimensions a reduction goes over."""
    rank = len(call.shape(call.first))
    dims = call.arguments.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    return (
        [at % rank for at in (dims if isinstance(dims, list | tuple) else [dims])] if rank else []
    )


def placed(call: Call) -> Any:
    """A reduction whose result says where something stands: its dimensions stay."""
    axes = call.axes(call.first)
    for at in reduced_dimensions(call):
        call.pin(axes[at], "its result names positions")
    return reduced(call)


def whole_rows(call: Call) -> Any:
    """Softmax, sorting, running sums: the dimension stays whole, the others pass."""
    axes = list(call.axes(call.first))
    if axes:
        at = (-1 if call.arguments.get("dim") is None else call["dim"]) % len(axes)
        call.pin(axes[at], "it reads all positions together")
        axes[at] = None
    value = call.node.meta["val"]
    return [tuple(axes)] * len(value) if isinstance(value, tuple | list) else tuple(axes)


def layer_norm(call: Call) -> Any:
    """Norms of the last dimensions, with the statistics of what is left."""
    x = call.axes(call.first)
    for name in ("weight", "bias"):
        for axis, other in zip(
            reversed(x), reversed(call.axes(call.arguments.get(name))), strict=False
        ):
            call.equate(axis, other)
    call.role(call.arguments.get("weight"), 0, "scale")
    value = call.node.meta["val"]
    if not isinstance(value, tuple | list):
        return x
    count = len(call["normalized_shape"])
    row = (*x[:-count], *[None] * count)
    return [x, *[row] * (len(value) - 1)]


def batch_norm(call: Call) -> Any:
    """Norms with one statistic per channel."""
    x = call.axes(call.first)
    for name in ("weight", "bias", "running_mean", "running_var"):
        for axis in call.axes(call.arguments.get(name)):
            call.equate(x[1], axis)
    call.role(call.arguments.get("weight"), 0, "scale")
    value = call.node.meta["val"]
    if not isinstance(value, tuple | list):
        return x
    return [x, *[(None,) * part.dim() for part in value[1:]]]


def group_norm(call: Call) -> Any:
    """Norms of groups of channels: whole groups go, or the same place of every group."""
    x = list(call.axes(call.first))
    size = call.shape(call.first)[1]
    groups: int = call["num_groups" if "num_groups" in call.arguments else "group"]
    group, channel = call.factor(x[1], groups, size // groups)
    x[1] = product(group, groups, channel, size // groups)
    for name in ("weight", "bias"):
        for axis in call.axes(call.arguments.get(name)):
            call.equate(x[1], axis)
    call.role(call.arguments.get("weight"), 0, "scale")
    value = call.node.meta["val"]
    return [tuple(x), (None, group), (None, group)] if isinstance(value, tuple | list) else tuple(x)


def weight_norm(call: Call) -> Any:
    """`_weight_norm`: rows of a weight by their length, which changes if they are cut."""
    v, g = call.axes(call["v"]), call.axes(call["g"])
    found: list[Axis | None] = [None] * len(v)
    at = call["dim"] % len(v)
    for dimension, axis in enumerate(v):
        if dimension != at:
            call.pin(axis, "it is divided by its length")
    for axis in g:
        if axis is not None and len(axis) == call.shape(call["v"])[at]:
            call.equate(v[at], axis)
    found[at] = v[at]
    value = call.node.meta["val"]
    if isinstance(value, tuple | list):
        return [tuple(found), *[(None,) * part.dim() for part in value[1:]]]
    return tuple(found)


def pooled(dimensions: int) -> Any:
    """The rule of a pool over the last dimensions."""

    def rule(call: Call) -> Any:
        axes = call.axes(call.first)
        for axis in axes[-dimensions:]:
            call.pin(axis, "it is pooled")
        found = (*axes[:-dimensions], *[None] * dimensions)
        value = call.node.meta["val"]
        return [found] * len(value) if isinstance(value, tuple | list) else found

    return rule
