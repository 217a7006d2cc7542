"""What a product leaves open: register tile, tiles per task, order of tasks, unrolled steps."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from effc.codegen.families.elementwise import typical
from effc.codegen.families.product_plan import Plan, Shape
from effc.codegen.isa import Isa
from effc.codegen.schedule import Schedule, Space, ordered

ORDERS = (("panel", "outer", "chunk"), ("outer", "chunk", "panel"), ("outer", "panel", "chunk"))
PANEL_FIRST, PLACE_FIRST, ROW_FIRST = 0, 1, 2
MANY_TASKS = 1 << 14
TASK_POSITIONS = 12  # small tasks are shared evenly; smaller ones gain nothing
MOST_ROWS, MOST_VECTORS = 14, 4
UNROLLS = (1, 2, 4)
TASK_TILES = (1, 4, 16)
WORTH_TRYING = 0.75


@dataclass(frozen=True)
class ProductSchedule(Schedule):
    """How a product is computed.

    Attributes:
        rows: Positions of a register tile.
        vectors: Vectors of output columns of a register tile; a packed panel is as wide.
        tiles: Register tiles of a task, along the positions.
        order: Which tasks follow each other: those of one panel (0), those of one place (1), or
            those of one panel within an outer position, such as a row of an image (2).
        unroll: Steps of features per turn of the innermost loop.
    """

    rows: int
    vectors: int
    tiles: int
    order: int
    unroll: int = 1


def default_of(plan: Plan, isa: Isa) -> ProductSchedule:
    """What the facts of a processor suggest."""
    panels_come_first = plan.runtime is not None or _overflows(plan, isa)
    orders = (PANEL_FIRST, ROW_FIRST) if panels_come_first else (PLACE_FIRST,)
    usual = [
        ProductSchedule(shape.rows, shape.vectors, _usual_tiles(plan, shape.rows), order)
        for shape in _shapes(plan, isa)
        for order in orders
    ]
    return max(usual, key=lambda schedule: estimate(plan, schedule, isa))


def space_of(plan: Plan, isa: Isa) -> Space:
    """Every schedule worth trying, the default first, the others by their estimated share."""
    default = default_of(plan, isa)
    scores = {
        shape: estimate(plan, _with_shape(plan, default, shape), isa)
        for shape in _shapes(plan, isa)
    }
    least = WORTH_TRYING * max(scores.values())
    shapes = sorted((s for s in scores if scores[s] >= least), key=lambda s: -scores[s])
    is_plain = all(size == 1 for size in plan.outer)
    orders = [default.order, *(o for o in range(2 if is_plain else 3) if o != default.order)]
    unrolls = UNROLLS if isinstance(plan.features, int) else UNROLLS[:1]
    points = [
        ProductSchedule(shape.rows, shape.vectors, tiles, order, unroll)
        for unroll, order, shape in itertools.product(unrolls, orders, shapes)
        for tiles in _tiles(plan, shape.rows)
    ]
    points.sort(key=lambda p: -scores[Shape(p.rows, p.vectors)] + _strangeness(p, default))
    return ordered(points, default)


def _with_shape(plan: Plan, schedule: ProductSchedule, shape: Shape) -> ProductSchedule:
    tiles = _usual_tiles(plan, shape.rows)
    return replace(schedule, rows=shape.rows, vectors=shape.vectors, tiles=tiles)


def scheduled(plan: Plan, schedule: ProductSchedule) -> Plan:
    """A plan with everything a schedule decides."""
    return replace(
        plan,
        shape=Shape(schedule.rows, schedule.vectors),
        chunk=schedule.tiles * schedule.rows,
        order=ORDERS[schedule.order],
        unroll=schedule.unroll,
    )


def _strangeness(point: ProductSchedule, default: ProductSchedule) -> float:
    """How much later to try a point because it departs from the usual in more than its tile."""
    is_far = (point.order != default.order, point.unroll != default.unroll)
    return 0.05 * sum(is_far) + 0.02 * (point.tiles * point.rows != default.tiles * default.rows)


def _tiles(plan: Plan, rows: int) -> list[int]:
    """Numbers of tiles per task that make a difference."""
    most = -(-typical(plan.positions) // rows)
    return sorted({min(tiles, most) for tiles in TASK_TILES} | {_usual_tiles(plan, rows)})


def _usual_tiles(plan: Plan, rows: int) -> int:
    """Tiles of a task: few enough that threads get equal shares, as many as there are."""
    return min(max(TASK_POSITIONS // rows, 1), -(-typical(plan.positions) // rows))


def _shapes(plan: Plan, isa: Isa) -> Iterator[Shape]:
    """Register tiles that fit: sums, a step's weights and one feature stay in registers."""
    positions, static = typical(plan.positions), isinstance(plan.positions, int)
    most_vectors = min(MOST_VECTORS, -(-typical(plan.columns) // plan.lanes))
    for vectors in range(1, most_vectors + 1):
        most = (isa.registers - 1 - vectors) // vectors
        most = min(most, MOST_ROWS, positions if static else MOST_ROWS)
        for rows in range(1, max(most, 1) + 1):
            yield Shape(rows, vectors)


def _overflows(plan: Plan, isa: Isa) -> bool:
    """Whether all panels together overflow the cache, so that each should be finished first."""
    element = 1 if plan.is_integer else 2 if plan.is_half else 4
    features, columns = typical(plan.features), typical(plan.columns)
    nbytes = plan.taps * features * columns * plan.groups * element
    return nbytes > isa.l2 // 2


def estimate(plan: Plan, schedule: ProductSchedule, isa: Isa) -> float:
    """The estimated share of time in which all threads do useful multiply-adds."""
    shape = Shape(schedule.rows, schedule.vectors)
    return share_of_useful(plan, shape) * balance(scheduled(plan, schedule), isa.cores)


def balance(plan: Plan, threads: int) -> float:
    """How evenly threads share the tasks: the mean of their work over the largest.

    Tasks are split by number, but the last panel may have fewer vectors of columns than others,
    the last chunk fewer tiles.
    """
    whole, rest = divmod(typical(plan.columns), plan.width)
    panels = [plan.shape.vectors] * whole + ([-(-rest // plan.lanes)] if rest else [])
    positions = typical(plan.positions)
    starts = range(0, positions, plan.chunk)
    work = {
        "panel": np.tile(panels, plan.groups),
        "outer": np.ones(math.prod(map(typical, plan.outer))),
        "chunk": np.array([-(-min(plan.chunk, positions - at) // plan.rows) for at in starts]),
    }
    if math.prod(map(len, work.values())) > MANY_TASKS:
        return 1.0
    tasks = functools.reduce(np.multiply.outer, [work[part] for part in plan.order]).reshape(-1)
    ends = [len(tasks) * thread // threads for thread in range(threads + 1)]
    shares = [tasks[first:last].sum() for first, last in itertools.pairwise(ends)]
    return float(tasks.sum() / threads / max(shares))


def share_of_useful(plan: Plan, shape: Shape) -> float:
    """The estimated share of useful multiply-adds of a register tile.

    A step of the inner loop takes `rows * vectors` multiply-adds and loads `rows + vectors` times;
    positions and columns that do not fill the last tile are wasted.
    """
    rows, vectors = shape.rows, shape.vectors
    positions, static = typical(plan.positions), isinstance(plan.positions, int)
    padded_rows = -(-positions // rows) * rows if static else positions + rows / 2
    columns = typical(plan.columns)
    whole, rest = divmod(columns, vectors * plan.lanes)
    padded_columns = whole * vectors * plan.lanes + -(-rest // plan.lanes) * plan.lanes
    useful = positions * columns / (padded_rows * padded_columns)
    tile = rows * vectors
    return useful * min(1.0, tile / 8) * tile / (tile + 0.35 * (rows + vectors) + 1)
