"""What is known about integer tensors without running the program.

Position arithmetic of exported models (`arange`, slices of position buffers, differences of them)
is *affine*: the element at index `(i0, i1, ...)` is `base + step0 * i0 + step1 * i1 + ...`. Masks
built from it can then be decided at compile time.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import fx

from effc.passes.clean.matching import aten, dtype, is_tensor, rank, sizes, tensor_of

LARGEST_WEIGHT = 1 << 16
DEEPEST = 64


@dataclass(frozen=True)
class Affine:
    """An integer tensor whose elements are an affine function of their index.

    Attributes:
        base: The element at index 0.
        steps: Per dimension, the difference between neighbours; 0 where the size is 1.
    """

    base: int
    steps: tuple[int, ...]

    def plus(self, other: "Affine", factor: int = 1) -> "Affine":
        """The sum with `factor` times another tensor, broadcast."""
        pairs = zip_longest(reversed(self.steps), reversed(other.steps), fillvalue=0)
        steps = tuple(mine + factor * theirs for mine, theirs in pairs)
        return Affine(self.base + factor * other.base, steps[::-1])

    def times(self, factor: int) -> "Affine":
        """The product with a number."""
        return Affine(self.base * factor, tuple(step * factor for step in self.steps))


def affine(value: Any, depth: int = DEEPEST) -> Affine | None:
    """The affine form of an integer tensor or number, or None where it has none or is too deep."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Affine(value, ())
    if depth == 0 or not is_tensor(value) or dtype(value) not in (torch.int64, torch.int32):
        return None
    if value.op == "get_attr":
        return _of_weight(value)
    reader = READERS.get(value.target) if value.op == "call_function" else None
    found = reader(value, depth - 1) if reader else None
    return None if found is None else _normal(found, value)


def iota_dimension(node: fx.Node) -> int | None:
    """The dimension along which a tensor counts 0, 1, 2, ...; None if it does anything else."""
    found = affine(node)
    if found is None or found.base != 0:
        return None
    steps = [position for position, step in enumerate(found.steps) if step]
    return steps[0] if len(steps) == 1 and found.steps[steps[0]] == 1 else None


def _normal(found: Affine, node: fx.Node) -> Affine:
    pairs = zip(found.steps, sizes(node), strict=True)
    return Affine(found.base, tuple(0 if size == 1 else step for step, size in pairs))


def _of_weight(node: fx.Node) -> Affine | None:
    tensor = tensor_of(node)
    if tensor is None or not 0 < tensor.numel() <= LARGEST_WEIGHT:
        return None
    origin = (0,) * tensor.dim()
    base = int(tensor[origin])
    steps = []
    for position, size in enumerate(tensor.shape):
        neighbour = tuple(int(other == position) for other in range(tensor.dim()))
        steps.append(int(tensor[neighbour]) - base if size > 1 else 0)
    expected = torch.full_like(tensor, base)
    for position, step in enumerate(steps):
        shape = [-1 if other == position else 1 for other in range(tensor.dim())]
        counting = torch.arange(tensor.shape[position], dtype=tensor.dtype)
        expected = expected + step * counting.reshape(shape)
    return Affine(base, tuple(steps)) if torch.equal(expected, tensor) else None


def _arange(node: fx.Node, depth: int) -> Affine | None:
    args: Any = node.args
    start = args[0] if len(args) > 1 else 0
    step = args[2] if len(args) > 2 else 1
    is_known = isinstance(start, int) and isinstance(step, int)
    return Affine(start, (step,)) if is_known else None


def _full(node: fx.Node, depth: int) -> Affine | None:
    number: Any = node.args[1]
    return Affine(number, (0,) * rank(node)) if isinstance(number, int) else None


def _reshape(node: fx.Node, depth: int) -> Affine | None:
    """A change of shape that only inserts or removes dimensions of size 1."""
    source: Any = node.args[0]
    found = affine(source, depth)
    if found is None:
        return None
    before = [(size, step) for size, step in zip(sizes(source), found.steps, strict=True)]
    moving = iter([pair for pair in before if pair[0] != 1])
    if [size for size in sizes(node) if size != 1] != [size for size, _ in before if size != 1]:
        return None
    return Affine(found.base, tuple(0 if size == 1 else next(moving)[1] for size in sizes(node)))


def _expand(node: fx.Node, depth: int) -> Affine | None:
    found = affine(node.args[0], depth)
    if found is None:
        return None
    return Affine(found.base, (0,) * (rank(node) - len(found.steps)) + found.steps)


def _permute(node: fx.Node, depth: int) -> Affine | None:
    found = affine(node.args[0], depth)
    order: Any = node.args[1]
    if found is None:
        return None
    return Affine(found.base, tuple(found.steps[position] for position in order))


def _slice(node: fx.Node, depth: int) -> Affine | None:
    if len(node.args) != 5:
        return None
    source, dim, start, _, step = node.args
    found = affine(source, depth)
    if found is None or not isinstance(dim, int) or not isinstance(step, int):
        return None
    if not isinstance(start, int) or start < 0:
        return None
    steps = list(found.steps)
    base = found.base + start * steps[dim]
    steps[dim] *= step
    return Affine(base, tuple(steps))


def _select(node: fx.Node, depth: int) -> Affine | None:
    found = affine(node.args[0], depth)
    dim, index = node.args[1:3]
    if found is None or not isinstance(dim, int) or not isinstance(index, int) or index < 0:
        return None
    rest = found.steps[:dim] + found.steps[dim + 1 :]
    return Affine(found.base + index * found.steps[dim], rest)


def _sum(sign: int) -> Any:
    def read(node: fx.Node, depth: int) -> Affine | None:
        first, second = (affine(argument, depth) for argument in node.args[:2])
        if first is None or second is None or node.kwargs.get("alpha", 1) != 1:
            return None
        return first.plus(second, sign)

    return read


def _product(node: fx.Node, depth: int) -> Affine | None:
    number: Any = node.args[1]
    found = affine(node.args[0], depth)
    is_known = isinstance(number, int) and not isinstance(number, bool)
    return found.times(number) if found is not None and is_known else None


def _cast(node: fx.Node, depth: int) -> Affine | None:
    return affine(node.args[0], depth)


def _index(node: fx.Node, depth: int) -> Affine | None:
    """Picking from an affine tensor: put each index into its affine function."""
    found = affine(node.args[0], depth)
    picked: Any = node.args[1]
    indices = [affine(index, depth) for index in picked]
    if found is None or len(indices) != len(found.steps):
        return None
    result = Affine(found.base, (0,) * rank(node))
    for factor, index in zip(found.steps, indices, strict=True):
        if index is None or min(index.base, *index.steps, 0) < 0:
            return None
        result = result.plus(index, factor)
    return result


def _difference(node: fx.Node, depth: int) -> Affine | None:
    """`diff` along one dimension, where the element before the first continues the row."""
    if len(node.args) != 5:
        return None
    source, count, dim, prepend, append = node.args
    found = affine(source, depth)
    if found is None or count != 1 or append is not None or not isinstance(dim, int):
        return None
    step = found.steps[dim]
    if isinstance(prepend, fx.Node):
        earlier = affine(prepend, depth)
        others = (*found.steps[:dim], 0, *found.steps[dim + 1 :])
        if earlier is None or sizes(prepend)[dim] != 1 or earlier.steps != others:
            return None
        if found.base - earlier.base != step:
            return None
    return Affine(step, (0,) * len(found.steps))


READERS: dict[Any, Any] = {
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.arange.start_step: _arange,
    aten.full.default: _full,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.expand.default: _expand,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.add.Tensor: _sum(1),
    aten.sub.Tensor: _sum(-1),
    aten.mul.Tensor: _product,
    aten._to_copy.default: _cast,
    aten.index.Tensor: _index,
    aten.diff.default: _difference,
}
