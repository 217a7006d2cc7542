"""What a low-bit product leaves open: register tile, tiles per task, groups unrolled."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from effc.codegen.families.elementwise import typical
from effc.codegen.isa import Isa
from effc.codegen.schedule import Schedule, Space, ordered
from effc.ir.symbols import Size

FEW_ROWS, SOME_ROWS, TILE_ROWS = 4, 8, 7
MOST_ROWS, MOST_VECTORS = 14, 4
TASK_POSITIONS = 96
TASK_TILES = (1, 4, 16)
UNROLLS = (1, 2, 4)
WORTH_TRYING = 3.0


@dataclass(frozen=True)
class LowbitSchedule(Schedule):
    """How a product with low-bit weights is computed.

    Attributes:
        rows: Positions of a register tile; where the number of positions is not known, of one that
            reads packed activations.
        vectors: Vectors of output columns of a register tile; a packed panel is as wide.
        tiles: Register tiles of a task, along the positions.
        unroll: Groups of features per turn of the loop over them.
    """

    rows: int
    vectors: int
    tiles: int
    unroll: int = 1


@dataclass(frozen=True)
class Extent:
    """Sizes that a schedule depends on.

    Attributes:
        positions: How many positions share the outer coordinates.
        columns: Output columns.
        groups: Groups of features.
    """

    positions: Size
    columns: int
    groups: int


def default_of(extent: Extent, isa: Isa) -> LowbitSchedule:
    """What the facts of a processor suggest.

    Few positions only wait for memory: wide panels. Else products and totals stay in registers
    beside the weights; as many positions as fit beside one vector are done in one pass. Where the
    number is not known, a tile of eight wastes little of small numbers.
    """
    vectors, rows = _usual_tile(extent, isa)
    return LowbitSchedule(rows, vectors, _usual_tiles(extent, rows))


def space_of(extent: Extent, isa: Isa) -> Space:
    """Every schedule worth trying: the default first, then by what a tile loads per product."""
    default = default_of(extent, isa)
    costs = {shape: _cost(extent, *shape) for shape in _shapes(extent, isa)}
    most = WORTH_TRYING * min(costs.values())
    shapes = sorted((shape for shape in costs if costs[shape] <= most), key=lambda s: costs[s])
    unrolls = sorted({min(unroll, extent.groups) for unroll in UNROLLS})
    points = [
        LowbitSchedule(rows, vectors, tiles, unroll)
        for unroll, (rows, vectors) in itertools.product(unrolls, shapes)
        for tiles in _tiles(extent, rows)
    ]
    points.sort(key=lambda p: p.tiles != _usual_tiles(extent, p.rows))
    return ordered(points, default)


def _usual_tile(extent: Extent, isa: Isa) -> tuple[int, int]:
    """Vectors of columns and positions."""
    positions = extent.positions
    most = -(-extent.columns // isa.lanes)
    free = _free(isa)
    if not isinstance(positions, int):
        return 1, min(free, SOME_ROWS)
    if positions <= FEW_ROWS:
        return min(FEW_ROWS if isa.registers > 16 else 2, most), positions
    if positions <= free:
        return 1, positions
    vectors = min(2, most, free // FEW_ROWS)
    tries = range(FEW_ROWS, min(free // vectors, TILE_ROWS) + 1)
    return vectors, min(tries, key=lambda count: (-(-positions // count) * (count + 1), -count))


def _free(isa: Isa) -> int:
    """Vectors of sums that stay in registers, each with its total."""
    return (isa.registers - 6) // 2


def _shapes(extent: Extent, isa: Isa) -> Iterator[tuple[int, int]]:
    """Positions and vectors whose sums stay in registers; totals are read once per group."""
    positions, static = extent.positions, isinstance(extent.positions, int)
    most_vectors = min(MOST_VECTORS, -(-extent.columns // isa.lanes))
    for vectors in range(1, most_vectors + 1):
        most = min((isa.registers - 6) // vectors, MOST_ROWS)
        most = min(most, typical(positions)) if static else most
        for rows in range(1, max(most, 1) + 1):
            yield rows, vectors


def _tiles(extent: Extent, rows: int) -> list[int]:
    """Numbers of tiles per task that make a difference."""
    most = -(-typical(extent.positions) // rows)
    return sorted({min(tiles, most) for tiles in TASK_TILES} | {_usual_tiles(extent, rows)})


def _usual_tiles(extent: Extent, rows: int) -> int:
    """Tiles of a task; no more than there are where that is known."""
    usual, positions = max(TASK_POSITIONS // rows, 1), extent.positions
    return min(usual, -(-positions // rows)) if isinstance(positions, int) else usual


def _cost(extent: Extent, rows: int, vectors: int) -> float:
    """Loads and unpacking per product, with positions that do not fill the last tile."""
    positions = typical(extent.positions)
    return -(-positions // rows) * rows / positions * (1 / rows + 1 / vectors)
