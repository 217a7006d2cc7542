"""Geometry of a product: what the register tile walks over, and how large it is."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx
from tvm import tirx

from effc.codegen.access import Access, joined
from effc.codegen.dtypes import stored
from effc.codegen.kernel import Pack
from effc.codegen.region import Region
from effc.codegen.tir import Builder, Expr, index
from effc.ir.errors import BuildError
from effc.ir.opspec import op_name
from effc.ir.symbols import Size, ceil_div, simplify

GROUPED = {"effc.linear_grouped.default", "effc.linear_grouped_integer.default"}
BLOCKS = {
    "effc.linear_blocks.default", "effc.linear_blocks_integer.default",
    "effc.linear_blocks_half.default",
}  # fmt: skip
LINEAR = {
    "aten.linear.default", "effc.linear_integer.default", "effc.linear_half.default", *GROUPED,
    *BLOCKS,
}  # fmt: skip
CONVOLUTION = {"aten.conv2d.default", "effc.conv2d_integer.default", "effc.conv2d_half.default"}
INTEGER = {
    "effc.linear_integer.default", "effc.conv2d_integer.default",
    "effc.linear_blocks_integer.default",
}  # fmt: skip
HALF = {
    "effc.linear_half.default", "effc.conv2d_half.default", "effc.linear_blocks_half.default",
}  # fmt: skip
MATRIX = {"aten.mm.default", "aten.bmm.default", "aten.matmul.default"}


@dataclass(frozen=True)
class Runtime:
    """A second factor only known at run time, packed by a stage of its own.

    Attributes:
        position: Its input position.
        batch: Its sizes before the matrix.
        batch_dims: The outer dimension each of them equals, or None where it is repeated.
    """

    position: int
    batch: tuple[Size, ...]
    batch_dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Shape:
    """A register tile: `rows` positions by `vectors` vectors of columns."""

    rows: int
    vectors: int


@dataclass(frozen=True)
class Plan:
    """Everything the generator needs to know of one product.

    Attributes:
        family: For reports.
        anchor: The product's node.
        source: Input position of the activations.
        zero_point: The node of the activations' zero point, or None.
        has_static_zero_point: Whether the zero point is a weight.
        is_integer: int8 codes and int32 totals.
        is_half: 16-bit floats and float32 totals; if neither, all is float32.
        inputs: Accesses of all inputs over the epilogue's domain.
        outputs: Accesses of all outputs over the same domain.
        outer: Sizes of the dimensions outside positions and columns.
        outer_strides: How far the activations move per step of an outer dimension.
        positions: How many positions share the outer coordinates.
        position_stride: Elements of the activations between positions.
        origin: Offset of the first tap from the position (negative with padding).
        taps: Runs of features per position.
        tap_width: Taps of a filter row; runs further apart than that are on the next row.
        tap_strides: Offset of the next filter row, and of the next tap in it.
        features: Length of a run.
        columns: Output columns per group; symbolic only where the second factor is no weight.
        groups: Channel groups.
        group_stride: Elements of the activations between groups.
        column_dim: Which dimension of the domain is the columns'.
        position_dim: Which one is the positions'.
        depth: Features per multiply-add step.
        shape: Register tile.
        lanes: Columns per vector.
        chunk: Positions per task.
        order: The parts of a task's number, slowest first.
        unroll: Steps of features per turn of the innermost loop.
        packed: Packed weights by name.
        runtime: The second factor, if it is no weight.
    """

    family: str
    anchor: fx.Node
    source: int
    zero_point: fx.Node | None
    has_static_zero_point: bool
    is_integer: bool
    is_half: bool
    inputs: tuple[Access, ...]
    outputs: tuple[Access, ...]
    outer: tuple[Size, ...]
    outer_strides: tuple[Size, ...]
    positions: Size
    position_stride: Size
    features: Size
    columns: Size
    column_dim: int
    position_dim: int
    lanes: int
    depth: int
    shape: Shape = Shape(6, 4)
    origin: Size = 0
    taps: int = 1
    tap_width: int = 1
    tap_strides: tuple[Size, Size] = (0, 0)
    groups: int = 1
    group_stride: Size = 0
    chunk: int = 48
    order: tuple[str, str, str] = ("panel", "outer", "chunk")
    unroll: int = 1
    packed: dict[str, Pack] = field(default_factory=dict)
    runtime: Runtime | None = None

    @property
    def rows(self) -> int:
        """Positions of a tile."""
        return self.shape.rows

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.shape.vectors * self.lanes

    @property
    def panels(self) -> Size:
        """Panels per group."""
        return ceil_div(self.columns, self.width)

    @property
    def weight_dtype(self) -> str:
        """Element type of the packed weight in memory."""
        if self.is_half:
            return stored(self.inputs[self.source].dtype)
        return "int8" if self.is_integer else "float32"

    @property
    def has_odd_pair(self) -> bool:
        """Whether the last of the bfloat16 pairs is a single feature.

        What lies behind it may be no number, so unlike codes it cannot be multiplied with zero.
        """
        return self.is_half and self.depth == 2 and self.features % 2 == 1

    @property
    def total_dtype(self) -> str:
        """Element type of the sums."""
        return "int32" if self.is_integer else "float32"

    def source_base(self, b: Builder, outer: tuple[Expr, ...], group: Expr) -> Expr:
        """Offset of the first tap of position 0."""
        total = b.size(self.origin)
        for coordinate, stride in zip(outer, self.outer_strides, strict=True):
            total = total + coordinate * b.size(stride)
        return total + group * b.size(self.group_stride) if self.groups > 1 else total

    def tap_offset(self, b: Builder, tap: Expr) -> Expr:
        """Offset of a tap from the first one."""
        row, step = (b.size(stride) for stride in self.tap_strides)
        if self.tap_width == 1:
            return tap * row
        width = index(self.tap_width)
        return tirx.Div(tap, width) * row + tirx.Mod(tap, width) * step

    def place(
        self, outer: tuple[Expr, ...], position: Expr, column: Expr
    ) -> tuple[tuple[Expr, ...], int]:
        """Coordinates in the domain, and the dimension of the columns."""
        rank = len(outer) + 2
        remaining = iter(outer)
        named = {self.position_dim: position, self.column_dim: column}
        coordinates = tuple(named[d] if d in named else next(remaining) for d in range(rank))
        return coordinates, self.column_dim


def geometry_of(region: Region) -> tuple[fx.Node, dict[str, Any]]:
    """The product of a region, and the fields of its plan that do not depend on the processor.

    Raises:
        BuildError: If the product is of a form the family does not handle.
    """
    anchor = region.anchor()
    if anchor is None:
        raise BuildError("a product region without a product")
    name = op_name(anchor)
    if name in LINEAR:
        return anchor, _linear(region, anchor)
    if name in CONVOLUTION:
        return anchor, _convolution(region, anchor)
    if name in MATRIX:
        return anchor, _matrix(region, anchor)
    raise BuildError(f"{name} is no product")


def _linear(region: Region, anchor: fx.Node) -> dict[str, Any]:
    source = region.inputs[region.input_of(anchor.args[0])]
    if source.strides[-1] != 1:
        raise BuildError("the activations of a linear layer must be contiguous in their features")
    domain = region.shape(anchor)
    walker = Access(source.dtype, domain, (*source.strides[:-1], 0))
    inputs, outputs, walker = _merged(region, anchor, domain, walker)
    if len(walker.shape) == 1:
        inputs, outputs, walker = _with_position(inputs, outputs, walker)
    rank = len(walker.shape)
    return {
        "family": "matmul",
        "inputs": inputs,
        "outputs": outputs,
        "outer": walker.shape[:-2],
        "outer_strides": walker.strides[:-2],
        "positions": walker.shape[-2],
        "position_stride": walker.strides[-2],
        "features": source.shape[-1],
        "columns": domain[-1],
        "column_dim": rank - 1,
        "position_dim": rank - 2,
    }


def _merged(
    region: Region, anchor: fx.Node, domain: tuple[Size, ...], walker: Access
) -> tuple[tuple[Access, ...], tuple[Access, ...], Access]:
    """Join the dimensions before the columns in the walker and everything the epilogue touches."""
    touched = epilogue_inputs(region, anchor)
    aligned = [a.aligned_to(domain) for i, a in enumerate(region.inputs) if i in touched]
    outputs = [access.aligned_to(domain) for access in region.outputs]
    merged = joined([walker, *aligned, *outputs], keep_last=1)
    results = iter(merged[1 : 1 + len(aligned)])
    inputs = tuple(next(results) if i in touched else a for i, a in enumerate(region.inputs))
    return inputs, tuple(merged[1 + len(aligned) :]), merged[0]


def _with_position(
    inputs: tuple[Access, ...], outputs: tuple[Access, ...], walker: Access
) -> tuple[tuple[Access, ...], tuple[Access, ...], Access]:
    """Give a product of a single vector a dimension of one position."""

    def extended(access: Access) -> Access:
        if len(access.shape) != 1:
            return access
        return replace(access, shape=(1, *access.shape), strides=(0, *access.strides))

    return tuple(map(extended, inputs)), tuple(map(extended, outputs)), extended(walker)


def epilogue_inputs(region: Region, anchor: fx.Node) -> set[int]:
    """Positions of the inputs that something other than the anchor's product reads."""
    zero_point = zero_point_of(anchor)
    return {
        position
        for position, node in enumerate(region.placeholders)
        if node is zero_point or any(user is not anchor for user in node.users)
    }


def zero_point_of(anchor: fx.Node) -> fx.Node | None:
    """The node of the zero point of an integer product's activations."""
    return anchor.args[2] if op_name(anchor) in INTEGER else None


def _convolution(region: Region, anchor: fx.Node) -> dict[str, Any]:
    source = region.inputs[region.input_of(anchor.args[0])]
    weight = region.inputs[region.input_of(anchor.args[1])]
    stride, padding, dilation, groups = anchor.args[3:7]
    if source.strides[1] != 1:
        raise BuildError("the input of a convolution must be channels-last")
    domain = region.shape(anchor)
    touched = epilogue_inputs(region, anchor)
    aligned = tuple(
        a.aligned_to(domain) if i in touched else a for i, a in enumerate(region.inputs)
    )
    channels, height, width = weight.shape[1:]
    row, step = source.strides[2], source.strides[3]
    joins_row = width == 1 or (groups == 1 and dilation[1] == 1 and step == channels)
    return {
        "family": "conv2d",
        "inputs": aligned,
        "outputs": region.outputs,
        "outer": (domain[0], domain[2]),
        "outer_strides": (source.strides[0], simplify(row * stride[0])),
        "positions": domain[3],
        "position_stride": simplify(step * stride[1]),
        "origin": simplify(-(row * padding[0]) - step * padding[1]),
        "taps": height if joins_row else height * width,
        "tap_width": 1 if joins_row else width,
        "tap_strides": (simplify(row * dilation[0]), simplify(step * dilation[1])),
        "features": channels * (width if joins_row else 1),
        "columns": weight.shape[0] // groups,
        "groups": groups,
        "group_stride": channels,
        "column_dim": 1,
        "position_dim": 3,
    }


def _matrix(region: Region, anchor: fx.Node) -> dict[str, Any]:
    """A product of two tensors known at run time: [..., M, K] by [..., K, N]."""
    left, right = (region.inputs[region.input_of(arg)] for arg in anchor.args[:2])
    domain = region.shape(anchor)
    if min(len(left.shape), len(right.shape)) < 2 or left.strides[-1] != 1:
        raise BuildError("matrix products need matrices with contiguous rows")
    walker = left.aligned_to((*domain[:-2], *left.shape[-2:]))
    touched = epilogue_inputs(region, anchor)
    missing = len(domain) - len(right.shape)
    dims = tuple(
        dim + missing if size == domain[dim + missing] else None
        for dim, size in enumerate(right.shape[:-2])
    )
    rank = len(domain)
    return {
        "family": "matmul",
        "inputs": tuple(
            a.aligned_to(domain) if i in touched else a for i, a in enumerate(region.inputs)
        ),
        "outputs": region.outputs,
        "outer": domain[:-2],
        "outer_strides": walker.strides[:-2],
        "positions": domain[-2],
        "position_stride": walker.strides[-2],
        "features": left.shape[-1],
        "columns": right.shape[-1],
        "column_dim": rank - 1,
        "position_dim": rank - 2,
        "runtime": Runtime(region.input_of(anchor.args[1]), right.shape[:-2], dims),
    }
