"""Views as strides: which operators only look at memory differently, and how."""

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.symbols import Size, product, simplify


@dataclass(frozen=True)
class Placement:
    """Where the elements of a tensor lie.

    Attributes:
        root: The node that owns the memory: an input, a weight, or a result of a region.
        offset: Elements from the start of the memory to the first element.
        shape: Size per dimension.
        strides: Elements between neighbours, per dimension.
    """

    root: fx.Node
    offset: Size
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        expected: Size = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected = simplify(expected * size)
        return True


def aliased(program: Program, node: fx.Node, source: Placement) -> Placement | None:
    """How a view looks at its source's memory, or None if the elements must be moved.

    Args:
        program: For shapes and sizes.
        node: A call of a view operator.
        source: Where its first argument lies.
    """
    return RULES[op_name(node).split(".")[1]](program, node, source)


def has_rule(node: fx.Node) -> bool:
    """Whether it is known how a view operator looks at memory."""
    return op_name(node).split(".")[1] in RULES


def _permute(program: Program, node: fx.Node, source: Placement) -> Placement:
    rank = len(source.shape)
    order = [dim % rank for dim in node.args[1]]
    return _reordered(source, order)


def _reordered(source: Placement, order: list[int]) -> Placement:
    return replace(
        source,
        shape=tuple(source.shape[dim] for dim in order),
        strides=tuple(source.strides[dim] for dim in order),
    )


def _transpose(program: Program, node: fx.Node, source: Placement) -> Placement:
    rank = len(source.shape)
    order = list(range(rank))
    first, second = (dim % rank for dim in node.args[1:3])
    order[first], order[second] = order[second], order[first]
    return _reordered(source, order)


def _matrix_transpose(program: Program, node: fx.Node, source: Placement) -> Placement:
    return _reordered(source, list(range(len(source.shape)))[::-1])


def _expand(program: Program, node: fx.Node, source: Placement) -> Placement:
    shape = program.shape(node)
    missing = len(shape) - len(source.shape)
    strides = (0,) * missing + tuple(
        0 if size == 1 and wanted != 1 else stride
        for size, wanted, stride in zip(source.shape, shape[missing:], source.strides, strict=True)
    )
    return replace(source, shape=shape, strides=strides)


def _slice(program: Program, node: fx.Node, source: Placement) -> Placement:
    arguments = list(node.args) + [None] * 5
    dim = (arguments[1] or 0) % len(source.shape)
    start = _position(program, arguments[2] or 0, source.shape[dim])
    step = arguments[4] or 1
    strides = list(source.strides)
    strides[dim] = simplify(strides[dim] * step)
    offset = simplify(source.offset + start * source.strides[dim])
    return replace(source, offset=offset, shape=program.shape(node), strides=tuple(strides))


def _select(program: Program, node: fx.Node, source: Placement) -> Placement:
    dim = node.args[1] % len(source.shape)
    position = _position(program, node.args[2], source.shape[dim])
    return replace(
        source,
        offset=simplify(source.offset + position * source.strides[dim]),
        shape=source.shape[:dim] + source.shape[dim + 1 :],
        strides=source.strides[:dim] + source.strides[dim + 1 :],
    )


def _unfold(program: Program, node: fx.Node, source: Placement) -> Placement:
    """Overlapping windows of a dimension, as a new last one."""
    dim, step = node.args[1] % len(source.shape), node.args[3]
    strides = list(source.strides)
    strides[dim] = simplify(strides[dim] * step)
    strides.append(source.strides[dim])
    return replace(source, shape=program.shape(node), strides=tuple(strides))


def _diagonal(program: Program, node: fx.Node, source: Placement) -> Placement:
    """The elements whose two coordinates differ by an offset, as a new last dimension."""
    given = tuple(node.args[1:])
    offset, *pair = given + (0, 0, 1)[len(given) :]
    first, second = (dim % len(source.shape) for dim in pair)
    moved = source.strides[second] * offset if offset >= 0 else source.strides[first] * -offset
    kept = [s for dim, s in enumerate(source.strides) if dim not in (first, second)]
    strides = (*kept, simplify(source.strides[first] + source.strides[second]))
    start = simplify(source.offset + moved)
    return replace(source, offset=start, shape=program.shape(node), strides=strides)


def _position(program: Program, argument: Any, size: Size) -> Size:
    """An index that may count from the end, as one that counts from the start."""
    position = program.size(argument)
    if isinstance(position, int) and position < 0:
        return simplify(size + position)
    if isinstance(position, int) and isinstance(size, int):
        return min(position, size)
    return position


def _reshape(program: Program, node: fx.Node, source: Placement) -> Placement | None:
    shape = program.shape(node)
    strides = reshaped_strides(source.shape, source.strides, shape)
    return None if strides is None else replace(source, shape=shape, strides=strides)


def reshaped_strides(
    old: tuple[Size, ...], strides: tuple[Size, ...], new: tuple[Size, ...]
) -> tuple[Size, ...] | None:
    """Strides of a tensor seen in another shape, or None if no strides do.

    Neighbouring old dimensions that lie one after the other form blocks; the new dimensions must
    fill the blocks one by one.
    """
    if 0 in new:
        return (0,) * len(new)
    blocks = _blocks(old, strides)
    result: list[Size] = []
    remaining = list(reversed([size for size in new]))
    for length, stride in reversed(blocks):
        taken: Size = 1
        while simplify(taken - length) != 0:
            while remaining and remaining[0] == 1:
                result.append(0)
                remaining.pop(0)
            if not remaining:
                return None
            size = remaining.pop(0)
            result.append(simplify(stride * taken))
            taken = simplify(taken * size)
            if isinstance(taken, int) and isinstance(length, int) and taken > length:
                return None
            if not remaining and simplify(taken - length) != 0:
                return None
    if any(size != 1 for size in remaining):
        return None
    return tuple(reversed(result + [0] * len(remaining)))


def _blocks(old: tuple[Size, ...], strides: tuple[Size, ...]) -> list[tuple[Size, Size]]:
    """Length and innermost stride of each run of dimensions that act as one."""
    blocks: list[tuple[Size, Size]] = []
    for size, stride in zip(old, strides, strict=True):
        if size == 1:
            continue
        if blocks and simplify(blocks[-1][1] - stride * size) == 0:
            blocks[-1] = (simplify(blocks[-1][0] * size), stride)
        else:
            blocks.append((size, stride))
    return blocks


def contiguous(root: fx.Node, shape: tuple[Size, ...]) -> Placement:
    """A tensor in row-major order that fills its own memory."""
    strides = tuple(product(list(shape[dim + 1 :])) for dim in range(len(shape)))
    return Placement(root, 0, shape, strides)


RESHAPES = """
_unsafe_view alias detach flatten reshape squeeze unflatten unsqueeze view view_as
""".split()
RULES = {
    **dict.fromkeys(RESHAPES, _reshape),
    "permute": _permute,
    "transpose": _transpose,
    "t": _matrix_transpose,
    "expand": _expand,
    "expand_as": _expand,
    "slice": _slice,
    "select": _select,
    "unfold": _unfold,
    "diagonal": _diagonal,
}
