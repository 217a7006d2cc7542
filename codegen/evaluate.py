"""Evaluates a region's operators at one point of its domain, scalar or vector.

A point has one coordinate per dimension; along one of them, the lane dimension, a vector of
neighbours is computed at once. Elementwise operators evaluate their operands at the same point;
operators that move elements (embedding, slice, pad, ...) at another one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from tvm import tirx

from effc.codegen import coarse_math, movement
from effc.codegen.access import Access
from effc.codegen.arithmetic import RULES, base_name, compute_type
from effc.codegen.dtypes import from_memory, held, to_memory
from effc.codegen.operands import NeedsScalarError
from effc.codegen.region import Region
from effc.codegen.tir import (
    Builder,
    Expr,
    cast,
    const,
    index,
    load,
    load_masked,
    size_expr,
    splat,
    with_lanes,
)
from effc.ir.errors import BuildError
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.symbols import size_of


@dataclass(frozen=True)
class Point:
    """Where to evaluate.

    Attributes:
        coordinates: An index per dimension; along the lane dimension, that of the first lane.
        lane_dim: The dimension lanes run along, or None for a single element.
        lanes: How many neighbours.
        count: With a masked tail, how many lanes are valid; else None.
    """

    coordinates: tuple[Expr, ...]
    lane_dim: int | None = None
    lanes: int = 1
    count: Expr | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity for caching."""
        return (*[_identity(c) for c in self.coordinates], self.lane_dim, self.lanes)

    def moved(self, coordinates: tuple[Expr, ...], lane_dim: int | None) -> "Point":
        """Another place with the same lanes."""
        if lane_dim is None:
            return Point(coordinates)
        return replace(self, coordinates=coordinates, lane_dim=lane_dim)


def _identity(expr: Expr) -> Any:
    return int(expr) if isinstance(expr, tirx.IntImm) else hash(expr)


@dataclass
class Evaluator:
    """Evaluates nodes of a region, each once per point.

    Attributes:
        region: What to evaluate.
        builder: Where loads and bindings go.
        buffers: The flat buffer of each placeholder.
        accesses: How each placeholder is reached in the kernel's domain.
        pointwise: Whether all operands are reached by the domain's own coordinates.
        overrides: Values known already (an anchor's accumulator, a row's statistics), by node.
        round_pairs: The processor's own rounding of a float32 vector to bfloat16 bits, if any.
    """

    region: Region
    builder: Builder
    buffers: list[tirx.Buffer]
    accesses: list[Access]
    pointwise: bool = True
    overrides: dict[fx.Node, Expr] = field(default_factory=dict)
    round_pairs: Callable[[Expr], Expr] | None = None
    _cache: dict[Any, Expr] = field(default_factory=dict)

    def fresh(self, overrides: dict[fx.Node, Expr]) -> "Evaluator":
        """The same region in a new scope, with other known values."""
        return replace(self, overrides=overrides, _cache={})

    def value(self, node: fx.Node, point: Point) -> Expr:
        """The register form of what a node computes at a point.

        Raises:
            NeedsScalarError: If it cannot be computed as a vector here.
            BuildError: If there is no code for the operator.
        """
        if node in self.overrides:
            return splat(self.overrides[node], point.lanes)
        key = (node, point.key)
        if key not in self._cache:
            self._cache[key] = self.builder.let(self._compute(node, point))
        return self._cache[key]

    def operand(self, node: fx.Node, child: Any, point: Point) -> Any:
        """An operand of an elementwise node: broadcast if smaller; constants stay constants."""
        if not isinstance(child, fx.Node):
            return child
        if kind_of(child) == Kind.SCALAR or not isinstance(child.meta["val"], torch.Tensor):
            return self.size(child)
        return self.value(child, point if self.pointwise else self._broadcast(node, child, point))

    def size(self, value: Any) -> Expr:
        """A size argument as an index expression."""
        raw = value.meta["val"] if isinstance(value, fx.Node) else value
        return self.builder.size(size_of(raw, self.region.names))

    def load(self, node: fx.Node, point: Point) -> Expr:
        """Load from a placeholder."""
        position = self.region.input_of(node)
        access = self.accesses[position]
        flat = self.offset(access, point)
        stride = access.strides[point.lane_dim] if point.lane_dim is not None else 0
        return self._fetch(position, flat, point, stride)

    def offset(self, access: Access, point: Point) -> Expr:
        """Flat index of a point in a strided tensor."""
        return flat_index(self.builder, access, point)

    def store(self, buffer: tirx.Buffer, access: Access, value: Expr, point: Point) -> None:
        """Store a register value at a point, with a mask or scattered lanes where needed."""
        value = splat(value, point.lanes)
        is_rounded = access.dtype == torch.bfloat16 and point.lanes > 1
        if is_rounded and self.round_pairs is not None:
            packed = self.round_pairs(value)
        else:
            packed = to_memory(value, access.dtype)
        flat = self.offset(access, point)
        stride = access.strides[point.lane_dim] if point.lane_dim is not None else 1
        if point.count is not None:
            if stride != 1:
                raise NeedsScalarError("masked store with a stride")
            self.builder.store_masked(buffer, packed, flat, point.count)
        elif isinstance(stride, int):
            self.builder.store(buffer, packed, flat, stride)
        else:
            raise NeedsScalarError("store with a symbolic stride")

    def _fetch(self, position: int, flat: Expr, point: Point, stride: Any) -> Expr:
        buffer, dtype = self.buffers[position], self.accesses[position].dtype
        if stride == 0:
            return splat(from_memory(load(buffer, flat), dtype), point.lanes)
        if not isinstance(stride, int):
            raise NeedsScalarError("load with a symbolic stride")
        if point.count is not None:
            if stride != 1:
                raise NeedsScalarError("masked load with a stride")
            return from_memory(load_masked(buffer, flat, point.lanes, point.count), dtype)
        return from_memory(load(buffer, flat, point.lanes, stride), dtype)

    def _compute(self, node: fx.Node, point: Point) -> Expr:
        if node.op == "placeholder":
            return self.load(node, point)
        name = base_name(op_name(node))
        if name in RULES:
            return self._elementwise(node, name, point)
        if name in movement.RULES:
            return movement.RULES[name](self, node, point)
        raise BuildError(f"no code for {op_name(node)}")

    def _elementwise(self, node: fx.Node, name: str, point: Point) -> Expr:
        operands = self.operands(node, point)
        coarse = coarse_math.function_of(node, name) if self.region.is_coarse else None
        if coarse is not None:
            result = coarse(self.builder, operands[0])
        else:
            result = RULES[name](self.builder, node, operands)
        return cast(result, held(node.meta["val"].dtype))

    def operands(self, node: fx.Node, point: Point) -> list[Expr]:
        """The operands of an elementwise node at a point, in the type it computes in."""
        name = base_name(op_name(node))
        dtype = compute_type(node, name)
        operands = []
        for position, child in enumerate(node.args):
            if not (isinstance(child, fx.Node) or _is_number_operand(node, name, position)):
                continue
            value = self.operand(node, child, point)
            operands.append(self._converted(value, child, dtype, point.lanes, name))
        return operands

    def _converted(
        self, value: Any, child: Any, dtype: torch.dtype | None, lanes: int, name: str
    ) -> Expr:
        if isinstance(value, bool | int | float):
            return const(value, with_lanes(held(dtype or torch.float32), lanes))
        value = splat(value, lanes)
        is_condition = (
            isinstance(child, fx.Node)
            and isinstance(child.meta["val"], torch.Tensor)
            and child.meta["val"].dtype == torch.bool
            and name in ("where", "masked_fill")
        )
        return value if dtype is None or is_condition else cast(value, held(dtype))

    def _broadcast(self, node: fx.Node, child: fx.Node, point: Point) -> Point:
        """The point of a smaller operand that is broadcast to the node's shape."""
        outer, inner = self.region.shape(node), self.region.shape(child)
        missing = len(outer) - len(inner)
        coordinates, lane_dim = [], None
        for dim, size in enumerate(inner):
            is_repeated = size == 1 and outer[dim + missing] != 1
            coordinates.append(index(0) if is_repeated else point.coordinates[dim + missing])
            if dim + missing == point.lane_dim and not is_repeated:
                lane_dim = dim
        return point.moved(tuple(coordinates), lane_dim)


NUMBER_OPERANDS = {
    "add": (0, 1), "sub": (0, 1), "rsub": (0, 1), "mul": (0, 1), "div": (0, 1), "remainder": (0, 1),
    "floor_divide": (0, 1), "fmod": (0, 1), "eq": (0, 1), "ne": (0, 1), "lt": (0, 1), "le": (0, 1),
    "gt": (0, 1), "ge": (0, 1), "pow": (0, 1), "where": (1, 2), "masked_fill": (2,),
    "true_divide": (0, 1),
    "bitwise_left_shift": (0, 1), "bitwise_right_shift": (0, 1),
    "__lshift__": (0, 1), "__rshift__": (0, 1),
    "bitwise_and": (0, 1), "bitwise_or": (0, 1), "bitwise_xor": (0, 1), "lerp": (2,),
    "__and__": (0, 1), "__or__": (0, 1), "__xor__": (0, 1),
}  # fmt: skip


def _is_number_operand(node: fx.Node, name: str, position: int) -> bool:
    number = isinstance(node.args[position], bool | int | float)
    return number and position in NUMBER_OPERANDS.get(name, ())


def flat_index(builder: Builder, access: Access, point: Point) -> Expr:
    """Flat index of a point's first lane in a strided tensor."""
    total: Expr | None = builder.size(access.offset) if access.offset != 0 else None
    for coordinate, stride in zip(point.coordinates, access.strides, strict=True):
        if stride == 0 or (isinstance(coordinate, tirx.IntImm) and int(coordinate) == 0):
            continue
        term = coordinate if stride == 1 else coordinate * size_expr(stride, builder.symbols)
        total = term if total is None else total + term
    return index(0) if total is None else total
