"""Coupling of elementwise operators: what is aligned stays together."""

from effc.ir.coupling.atoms import Axes, Axis
from effc.ir.coupling.call import STREAM, Call
from effc.ir.coupling.relations import joined


def elementwise(call: Call) -> Axes:
    """Operands broadcast against each other."""
    shapes = [(node, call.shape(node)) for node in call.tensors]
    rank = len(call.output)
    found: list[Axis | None] = []
    for at in range(-rank, 0):
        size = call.output[at]
        axes = [
            call.axes(node)[at]
            for node, shape in shapes
            if len(shape) >= -at and shape[at] == size and size != 1
        ]
        for other in axes[1:]:
            call.equate(axes[0], other)
        found.append(axes[0] if axes else None)
    return tuple(found)


def residual(call: Call) -> Axes:
    """A sum; where two computed values are added, their channels are a residual stream."""
    found = elementwise(call)
    computed = [node for node in call.tensors if node not in call.state.constants]
    if len(computed) > 1:
        for axis in found:
            call.tag(axis, STREAM)
    return found


def unary(call: Call) -> Axes:
    """Only the first tensor's elements are read."""
    return call.axes(call.first)


def created(call: Call) -> Axes:
    """Equal elements: any of them can go."""
    sizes = call.node.meta["val"].shape
    return tuple(
        call.state.atoms.axis(size) if isinstance(size, int) and size > 1 else None
        for size in sizes
    )


def ordered(call: Call) -> Axes:
    """Elements that say where they stand: none can go."""
    return (None,) * len(call.output)


def prelu(call: Call) -> Axes:
    """One slope, or one per channel in dimension 1."""
    x, slopes = call.axes(call["self"]), call.axes(call["weight"])
    if call.shape(call["weight"]) != (1,) and len(x) > 1:
        call.equate(x[1], slopes[0])
    return x


def glu(call: Call) -> Axes:
    """The halves of a dimension are paired."""
    x = list(call.axes(call["self"]))
    at = call["dim"] % len(x)
    axis, size = x[at], call.output[at]
    if axis is not None:
        call.equate(axis[:size], axis[size:])
        x[at] = axis[:size]
    return tuple(x)


def concatenated(call: Call) -> Axes:
    """`cat`: dimensions laid end to end, the others paired."""
    parts = [node for node in call["tensors"] if call.shape(node) != (0,)]
    at = call["dim"] % len(call.output)
    found = list(call.axes(parts[0]))
    for other in parts[1:]:
        for dimension, axis in enumerate(call.axes(other)):
            if dimension != at:
                call.equate(found[dimension], axis)
    found[at] = joined([(call.axes(node)[at], call.shape(node)[at]) for node in parts])
    return tuple(found)


def stacked(call: Call) -> Axes:
    """`stack`: a new dimension whose positions all stay."""
    parts = call["tensors"]
    found = list(call.axes(parts[0]))
    for other in parts[1:]:
        for dimension, axis in enumerate(call.axes(other)):
            call.equate(found[dimension], axis)
    found.insert(call["dim"] % len(call.output), None)
    return tuple(found)
