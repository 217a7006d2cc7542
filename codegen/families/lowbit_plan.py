"""Geometry of a product with low-bit weights: groups, register tile, packed weights."""

from dataclasses import dataclass, field

import torch
from torch import fx

from effc.codegen.access import Access
from effc.codegen.families.lowbit_schedule import FEW_ROWS, Extent, LowbitSchedule, default_of
from effc.codegen.families.product_plan import geometry_of
from effc.codegen.isa import Isa
from effc.codegen.kernel import Pack
from effc.codegen.pack import FEATURES, STEP, PackCodes, PackGroups, PackTable
from effc.codegen.region import Region
from effc.ir.errors import BuildError
from effc.ir.opspec import op_name
from effc.ir.symbols import Size, ceil_div, product, simplify

INTEGER = "effc.linear_grouped_integer.default"
MOST_FEATURES = 1 << 16  # an int32 sum of a group holds them whatever the codes


@dataclass(frozen=True)
class Plan:
    """Everything the generator needs to know of one product.

    Attributes:
        anchor: The product's node.
        source: Input position of the activations.
        is_integer: int8 activations; else float32.
        bits: Width of a code.
        group: Features that share a scale.
        planes: How many planes add up to the weight.
        has_zero_points: Whether groups have zero points of their own.
        has_table: Whether codes are looked up.
        scale_dtype: Of the scales.
        inputs: Accesses of all inputs over the epilogue's domain.
        outputs: Accesses of all outputs over the same domain.
        outer: Sizes of the dimensions outside positions and columns.
        outer_strides: How far the activations move per step of an outer dimension.
        positions: How many positions share the outer coordinates.
        position_stride: Elements of the activations between positions.
        features: Length of a dot product.
        columns: Output columns.
        column_dim: Which dimension of the domain is the columns'.
        position_dim: Which one is the positions'.
        lanes: Columns per vector.
        vectors: Vectors of columns in a panel.
        rows: Positions of a register tile.
        task_tiles: Register tiles of a task, along the positions.
        unroll: Groups of features per turn of the loop over them.
        packed: Packed weights by name.
    """

    anchor: fx.Node
    source: int
    is_integer: bool
    bits: int
    group: int
    planes: int
    has_zero_points: bool
    has_table: bool
    scale_dtype: torch.dtype
    inputs: tuple[Access, ...]
    outputs: tuple[Access, ...]
    outer: tuple[Size, ...]
    outer_strides: tuple[Size, ...]
    positions: Size
    position_stride: Size
    features: int
    columns: int
    column_dim: int
    position_dim: int
    lanes: int
    vectors: int
    rows: int
    task_tiles: int
    unroll: int
    packed: dict[str, Pack] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """How many panels there are."""
        return -(-self.columns // self.width)

    @property
    def groups(self) -> int:
        """Groups of a row; the last one may be smaller."""
        return -(-self.features // self.group)

    @property
    def has_parts(self) -> bool:
        """Whether the features of a block have several scales."""
        return self.group < min(FEATURES, self.features)

    @property
    def block_nbytes(self) -> int:
        """Bytes of 32 features of a panel's columns."""
        return self.width * FEATURES * self.bits // 8

    @property
    def blocks(self) -> int:
        """Blocks of a row of one plane."""
        return -(-self.features // FEATURES)

    @property
    def depth(self) -> int:
        """Features that lie side by side in packed activations."""
        return STEP if self.is_integer else 1

    @property
    def is_tiled(self) -> bool:
        """Whether some positions are packed into tiles first."""
        return not isinstance(self.positions, int) or self.positions > FEW_ROWS

    @property
    def tiles(self) -> Size:
        """Tiles per outer coordinate."""
        return ceil_div(self.positions, self.rows)

    @property
    def tile_count(self) -> Size:
        """Tiles in all."""
        return simplify(product(list(self.outer)) * self.tiles)

    @property
    def tile_size(self) -> int:
        """Elements of a tile of packed activations."""
        return self.rows * -(-self.features // self.depth) * self.depth

    @property
    def chunk(self) -> int:
        """Positions of a task."""
        return self.task_tiles * self.rows

    @property
    def extent(self) -> Extent:
        """What a schedule depends on."""
        return Extent(self.positions, self.columns, self.groups)


def plan_of(region: Region, isa: Isa, schedule: LowbitSchedule | None = None) -> Plan:
    """Read the geometry of a region's product and choose its tile, unless a schedule does.

    Raises:
        BuildError: If the product is of a form the family does not handle.
    """
    anchor, geometry = geometry_of(region)
    geometry = {name: value for name, value in geometry.items() if name != "family"}
    _, codes, scale, zero_point, bits, group = anchor.args[:6]
    table = table_of(anchor)
    features = geometry["features"]
    group = min(group, features)
    is_part = table is not None and FEATURES % group == 0
    if group % FEATURES and group < features and not is_part:
        raise BuildError(f"groups of {group} features; kernels handle multiples of {FEATURES}")
    if features > MOST_FEATURES:
        raise BuildError(f"{features} features; low-bit kernels handle up to {MOST_FEATURES}")
    extent = Extent(geometry["positions"], geometry["columns"], -(-features // group))
    chosen = schedule or default_of(extent, isa)
    known = {
        "anchor": anchor,
        "source": region.input_of(anchor.args[0]),
        "is_integer": op_name(anchor) == INTEGER,
        "bits": bits,
        "group": group,
        "planes": codes.meta["val"].shape[0] if codes.meta["val"].dim() == 3 else 1,
        "has_zero_points": zero_point is not None,
        "has_table": table is not None,
        "scale_dtype": scale.meta["val"].dtype,
        "lanes": isa.lanes,
        "vectors": chosen.vectors,
        "rows": chosen.rows,
        "task_tiles": chosen.tiles,
        "unroll": chosen.unroll,
    }
    plan = Plan(**known, **geometry)
    return Plan(**known, **geometry, packed=_packed(region, plan))


def table_of(anchor: fx.Node) -> fx.Node | None:
    """The values of the codes, where they are looked up."""
    return anchor.args[6] if len(anchor.args) > 6 else None


def _packed(region: Region, plan: Plan) -> dict[str, Pack]:
    codes, scale, zero_point = plan.anchor.args[1:4]
    packed: dict[str, Pack] = {
        "codes": PackCodes(
            region.input_of(codes), plan.bits, plan.group, plan.features, plan.vectors, plan.lanes
        ),
        "scales": PackGroups(region.input_of(scale), plan.width, None, plan.groups, plan.columns),
    }
    if (table := table_of(plan.anchor)) is not None:
        packed["table"] = PackTable(region.input_of(table))
    if zero_point is not None:
        position = region.input_of(zero_point)
        packed["zeros"] = PackGroups(position, plan.width, plan.bits, plan.groups, plan.columns)
    return packed
