"""Depthwise convolution of codes: four vertical taps of a channel in one integer dot product.

Four input rows are interleaved byte by byte; what that gives at one input column serves all filter
columns and output rows of a tile. A tile of `rows x pixels` outputs by `vectors` of channels stays
in registers.
"""

from dataclasses import dataclass
from functools import cached_property

from torch import fx
from tvm import tirx

from effc.codegen.epilogue import Result
from effc.codegen.evaluate import Point
from effc.codegen.families.depthwise_frame import Filter, Frame
from effc.codegen.families.elementwise import unravel
from effc.codegen.interleave import WIDTH, quad_code, quads
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel, Pack
from effc.codegen.pack import ColumnSums, PackTaps
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Expr, const, index, load, load_masked, with_lanes
from effc.ir.symbols import Size, ceil_div, product

MOST_VECTORS = 2
SPARE_REGISTERS = 6
CHUNK_CHANNELS = 128
TASK_CHANNELS = (32, 128, 512)
WORTH_TRYING = 1.35


@dataclass(frozen=True)
class Step:
    """One dot product per pixel and vector: a group of four lines, a filter column, an output row.

    Attributes:
        group: Which four lines.
        column: Column of the filter.
        row: Row of the tile.
        taps: The filter's taps on those lines, -1 for none.
    """

    group: int
    column: int
    row: int
    taps: tuple[int, ...]


@dataclass(frozen=True)
class Tile:
    """Outputs that stay in registers: `rows` x `pixels` x `vectors` of channels."""

    filter: Filter
    rows: int
    pixels: int
    vectors: int

    @cached_property
    def groups(self) -> list[list[int]]:
        """Input lines, four at a time; the last group may have fewer."""
        lines = self.filter.lines(self.rows)
        return [lines[i : i + WIDTH] for i in range(0, len(lines), WIDTH)]

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, in the order in which weights are packed."""
        found = [
            Step(group, column, row, self._taps(group, column, row))
            for group in range(len(self.groups))
            for column in range(self.filter.size[1])
            for row in range(self.rows)
        ]
        return [step for step in found if max(step.taps) >= 0]

    def _taps(self, group: int, column: int, row: int) -> tuple[int, ...]:
        height, width = self.filter.size
        on_line = {self.filter.line(row, tap): tap * width + column for tap in range(height)}
        taps = [on_line.get(line, -1) for line in self.groups[group]]
        return (*taps, *[-1] * (WIDTH - len(taps)))

    def cost(self) -> float:
        """Estimated cycles per output vector: dot products, shuffles, loads."""
        columns = len(self.filter.columns(self.pixels))
        reads = len(self.groups) * columns
        shuffles = {1: 3, 2: 4}[self.vectors]
        dots = len(self.steps) * self.pixels * self.vectors
        return (dots + reads * (shuffles + 1)) / (self.rows * self.pixels * self.vectors)


@dataclass(frozen=True)
class DotSchedule(Schedule):
    """How a depthwise convolution of codes is computed.

    Attributes:
        rows: Output rows of a register tile.
        pixels: Output pixels of a row of the tile.
        vectors: Vectors of channels of the tile.
        channels: Channels of a task, at most.
    """

    rows: int
    pixels: int
    vectors: int
    channels: int = CHUNK_CHANNELS


def space(region: Region, isa: Isa, anchor: fx.Node) -> Space:
    """Every schedule worth trying, the default first, the others by their estimated cost."""
    images, channels, height, width = region.shape(anchor)
    del images
    costs = tile_costs(Filter.of(region, anchor), height, width, channels, isa)
    tiles = sorted(costs, key=lambda tile: costs[tile])
    near = [tile for tile in tiles if costs[tile] <= WORTH_TRYING * costs[tiles[0]]]
    points = [
        DotSchedule(tile.rows, tile.pixels, tile.vectors, chunk)
        for tile in near
        for chunk in TASK_CHANNELS
        if chunk == CHUNK_CHANNELS or chunk < 2 * channels
    ]
    best = choose_tile(Filter.of(region, anchor), height, width, channels, isa)
    return ordered(points, DotSchedule(best.rows, best.pixels, best.vectors))


def build(
    region: Region,
    isa: Isa,
    anchor: fx.Node,
    name: str,
    symbols: tuple[str, ...],
    schedule: DotSchedule,
) -> Kernel:
    """Make the kernel of an integer depthwise convolution on a processor with dot products."""
    return _DotDepthwise(region, isa, anchor, name, symbols, schedule).kernel()


def choose_tile(geometry: Filter, height: Size, width: Size, channels: int, isa: Isa) -> Tile:
    """The tile of least estimated cost per useful output that fits into registers."""
    costs = tile_costs(geometry, height, width, channels, isa)
    return min(costs, key=lambda tile: costs[tile])


def tile_costs(
    geometry: Filter, height: Size, width: Size, channels: int, isa: Isa
) -> dict[Tile, float]:
    """Tiles that fit into registers, with their estimated cost per useful output."""
    blocks = -(-channels // isa.lanes)
    tall, wide = (size if isinstance(size, int) else 1 for size in (height, width))
    costs = {}
    for vectors in range(1, min(MOST_VECTORS, blocks) + 1):
        room = (isa.registers - SPARE_REGISTERS - vectors) // vectors
        for rows in range(1, min(room, tall, 4) + 1):
            for pixels in range(1, min(room // rows, wide) + 1):
                tile = Tile(geometry, rows, pixels, vectors)
                waste = -(-tall // rows) * rows / tall * (-(-wide // pixels) * pixels / wide)
                costs[tile] = tile.cost() * waste
    return costs


class _DotDepthwise(Frame):
    def __init__(
        self,
        region: Region,
        isa: Isa,
        anchor: fx.Node,
        name: str,
        symbols: tuple[str, ...],
        schedule: DotSchedule,
    ) -> None:
        super().__init__(region, isa, anchor, name, symbols)
        self.function.import_llvm(quad_code(isa.lanes, MOST_VECTORS))
        self.weights = self.function.param("packed", "filter", "int8")
        self.tile = Tile(self.filter, schedule.rows, schedule.pixels, schedule.vectors)
        self.chunk = schedule.channels
        self.width = self.tile.vectors * isa.lanes

    def kernel(self) -> Kernel:
        """Emit the loops and close the kernel."""
        b, tile = self.b, self.tile
        begin, end = self.function.task_range
        images, _, height, width = self.domain
        whole, rest = divmod(self.channels, self.width)
        most = max(self.chunk // self.width, 1)
        chunks = max(-(-whole // most), 1)
        outer: list[Size] = [
            images, ceil_div(height, tile.rows), chunks, ceil_div(width, tile.pixels)
        ]  # fmt: skip
        with b.loop(begin, end, "task") as task:
            image, row, chunk, column = unravel(b, task, outer)
            place = (
                image,
                self._clamped(row, tile.rows, height),
                self._clamped(column, tile.pixels, width),
            )
            first = b.let(chunk * index(most))
            last = b.let(tirx.Min(first + index(most), index(whole)))
            with b.loop(first, last, "block") as block:
                self._compute(place, b.let(block * index(self.width)), self.width)
            if rest:
                with b.when(tirx.EQ(chunk, index(chunks - 1))):
                    self._compute(place, index(whole * self.width), rest)
        steps = tuple(step.taps for step in tile.steps)
        packed: dict[str, Pack] = {
            "filter": PackTaps(self.weight_at, self.isa.lanes, steps),
            "sums": ColumnSums(self.weight_at, self.static_zero, self.isa.lanes),
        }
        stage = self.function.close(product(outer))
        return Kernel("depthwise", (stage,), packed=packed)

    def _clamped(self, number: Expr, count: int, size: Size) -> Expr:
        """First row or column of a tile; the last tile overlaps its neighbour if it must."""
        b = self.b
        return b.let(tirx.Min(number * index(count), b.size(size) - index(count)))

    def _compute(self, place: tuple[Expr, ...], channel: Expr, count: int) -> None:
        """Compute `count` channels of a tile."""
        b, tile, lanes = self.b, self.tile, self.isa.lanes
        vectors = -(-count // lanes)
        totals = b.local("int32", tile.rows * tile.pixels * vectors * lanes, "total")
        for vector in range(vectors):
            start = self._start(channel, vector)
            for output in range(tile.rows * tile.pixels):
                b.store(totals, start, (output * vectors + vector) * lanes)
        base = self.base(place, channel)
        for group in range(len(tile.groups)):
            for column in self.filter.columns(tile.pixels):
                found = self._quads(base, group, column, count)
                self._multiply(totals, found, channel, group, column)
        results = []
        for output in range(tile.rows * tile.pixels):
            row, pixel = divmod(output, tile.pixels)
            for vector in range(vectors):
                at = b.let(channel + index(vector * lanes))
                below, right = b.let(place[1] + index(row)), b.let(place[2] + index(pixel))
                total = load(totals, (output * vectors + vector) * lanes, lanes)
                point = (place[0], at, below, right)
                rest = min(count - vector * lanes, lanes)
                if self.static_zero is None:
                    masked = None if rest == lanes else index(rest)
                    total = self.centred(total, Point(point, 1, lanes, masked))
                results.append(Result(total, point, rest, vector))
        self.epilogue.finish_all(results, 1)

    def _start(self, channel: Expr, vector: int) -> Expr:
        """What totals start at: the term of a static zero point, else zero."""
        if self.static_zero is None:
            return const(0, with_lanes("int32", self.isa.lanes))
        at = channel + index(vector * self.isa.lanes)
        return self.b.let(load(self.sums, at, self.isa.lanes))

    def _quads(self, base: Expr, group: int, column: int, count: int) -> list[Expr]:
        """The interleaved lines of a group at one input column."""
        b, lanes, source = self.b, self.isa.lanes, self.inputs[self.source_at]
        vectors = -(-count // lanes)
        rows = []
        for line in self.tile.groups[group]:
            at = base + b.size(self.source.strides[2]) * index(line)
            at = at + b.size(self.source.strides[3]) * index(column)
            if count == vectors * lanes:
                rows.append(b.let(load(source, at, count)))
            else:
                rows.append(b.let(load_masked(source, at, vectors * lanes, index(count))))
        rows += [rows[-1]] * (WIDTH - len(rows))
        return [b.let(quad) for quad in quads(rows, vectors, lanes)]

    def _multiply(
        self, totals: tirx.Buffer, found: list[Expr], channel: Expr, group: int, column: int
    ) -> None:
        """Add what one interleaved column gives every output that reads it."""
        b, tile, lanes, vectors = self.b, self.tile, self.isa.lanes, len(found)
        size = len(tile.steps) * lanes * WIDTH
        for number, step in enumerate(tile.steps):
            pixels = [
                pixel
                for pixel in range(tile.pixels)
                if self.filter.column(pixel, step.column) == column
            ]
            if step.group != group or not pixels:
                continue
            for vector in range(vectors):
                at = channel * index(len(tile.steps) * WIDTH)
                at = at + index(vector * size + number * lanes * WIDTH)
                weight = b.let(self.isa.load_dot_weights(self.weights, at))
                for pixel in pixels:
                    place = ((step.row * tile.pixels + pixel) * vectors + vector) * lanes
                    total = self.isa.dot(load(totals, place, lanes), found[vector], weight)
                    b.store(totals, total, place)
