"""Depthwise convolution in float32: vectors of channels, a row of output pixels in registers.

16-bit floats and, where the processor has no integer dot product (`depthwise_dot` uses it), int8
codes are converted to float32. It holds every sum of up to 64 taps of 8-bit products exactly, so
the integer result is exact too.
"""

from dataclasses import dataclass

from torch import fx
from tvm import tirx

from effc.codegen.dtypes import from_memory
from effc.codegen.families import depthwise_dot
from effc.codegen.families.depthwise_frame import Filter, Frame
from effc.codegen.families.elementwise import unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel, Pack
from effc.codegen.pack import ColumnSums, PackDepthwise
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Expr, cast, const, index, load, load_masked, with_lanes
from effc.codegen.vectors import Run, Vectors
from effc.ir.opspec import op_name
from effc.ir.symbols import Size, ceil_div, product

EXACT_TAPS = 64
MOST_PIXELS = 12


def is_depthwise(region: Region, anchor: fx.Node) -> bool:
    """Whether a convolution has one input and one output channel per group."""
    if "conv2d" not in op_name(anchor):
        return False
    weight = region.inputs[region.input_of(anchor.args[1])].shape
    taps = weight[2] * weight[3]
    return weight[1] == 1 and weight[0] == anchor.args[6] and taps <= EXACT_TAPS


@dataclass(frozen=True)
class PixelSchedule(Schedule):
    """How a depthwise convolution in float32 is computed.

    Attributes:
        pixels: Output pixels of a register tile, along a row.
    """

    pixels: int


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of a depthwise convolution, the default first."""
    anchor = _anchor_of(region)
    if _has_dot_form(anchor, isa):
        return depthwise_dot.space(region, isa, anchor)
    width, fits = region.shape(anchor)[3], _fitting_pixels(region, anchor, isa)
    if isinstance(width, int):
        default = max(fits, key=lambda p: width / (-(-width // p) * p) + 0.02 * p)
    else:
        default = min(fits[-1], 4)
    return ordered(map(PixelSchedule, reversed(fits)), PixelSchedule(default))


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: Schedule | None = None,
) -> Kernel:
    """Make the kernel of a region whose anchor is a depthwise convolution."""
    anchor = _anchor_of(region)
    chosen = schedule or space(region, isa)[0]
    if isinstance(chosen, depthwise_dot.DotSchedule):
        return depthwise_dot.build(region, isa, anchor, name, symbols, chosen)
    if not isinstance(chosen, PixelSchedule):
        raise TypeError(f"{chosen} is no schedule of a depthwise convolution")
    return _Depthwise(region, isa, anchor, name, symbols, chosen.pixels).kernel()


def _anchor_of(region: Region) -> fx.Node:
    anchor = region.anchor()
    if anchor is None or not is_depthwise(region, anchor):
        raise AssertionError("not a depthwise convolution")
    return anchor


def _has_dot_form(anchor: fx.Node, isa: Isa) -> bool:
    return "integer" in op_name(anchor) and isa.has_vnni


def _fitting_pixels(region: Region, anchor: fx.Node, isa: Isa) -> list[int]:
    """Tiles whose sums, inputs and weights stay in registers and that a row has room for."""
    width, geometry = region.shape(anchor)[3], Filter.of(region, anchor)
    return [
        p
        for p in range(1, MOST_PIXELS + 1)
        if p + len(geometry.columns(p)) + geometry.size[1] < isa.registers
        and (not isinstance(width, int) or p <= width)
    ]


class _Depthwise(Frame):
    def __init__(
        self,
        region: Region,
        isa: Isa,
        anchor: fx.Node,
        name: str,
        symbols: tuple[str, ...],
        pixels: int,
    ) -> None:
        super().__init__(region, isa, anchor, name, symbols)
        self.weights = self.function.param("packed", "filter", "float32")
        self.pixels = pixels

    def kernel(self) -> Kernel:
        """Emit the loops and close the kernel."""
        b, pixels, width = self.b, self.pixels, self.domain[3]
        begin, end = self.function.task_range
        outer: list[Size] = [self.domain[0], self.domain[2], ceil_div(width, pixels)]
        vectors = Vectors(self.isa.lanes, self.isa.has_masks)
        with b.loop(begin, end, "task") as task:
            image, row, tile = unravel(b, task, outer)
            run = Run(index(0), b.size(self.channels), self.channels)
            if isinstance(width, int) or pixels == 1:
                first = b.let(tirx.Min(tile * index(pixels), b.size(width) - index(pixels)))
                self._channels(vectors, run, (image, row, first), pixels)
            else:
                self._symbolic(vectors, run, image, row, tile)
        packed: dict[str, Pack] = {"filter": PackDepthwise(self.weight_at, self.isa.lanes)}
        if self.is_integer:
            packed["sums"] = ColumnSums(self.weight_at, self.static_zero, self.channels)
        stage = self.function.close(product(outer))
        return Kernel("depthwise", (stage,), packed=packed)

    def _symbolic(self, vectors: Vectors, run: Run, image: Expr, row: Expr, tile: Expr) -> None:
        """A row of unknown length: whole tiles overlap at its end; short rows go pixel by pixel."""
        b, width = self.b, self.b.size(self.domain[3])
        enough = width >= index(self.pixels)
        with b.when(enough):
            first = b.let(tirx.Min(tile * index(self.pixels), width - index(self.pixels)))
            self._channels(vectors, run, (image, row, first), self.pixels)
        with b.otherwise(enough), b.loop(index(0), width, "x") as x:
            self._channels(vectors, run, (image, row, x), 1)

    def _channels(self, vectors: Vectors, run: Run, place: tuple[Expr, ...], pixels: int) -> None:
        vectors.cover(self.b, run, lambda at, lanes, n: self._compute(place, at, pixels, lanes, n))

    def _compute(
        self, place: tuple[Expr, ...], channel: Expr, pixels: int, lanes: int, count: Expr | None
    ) -> None:
        b, dtype = self.b, with_lanes("float32", lanes)
        totals = b.local("float32", pixels * lanes, "total")
        for pixel in range(pixels):
            b.store(totals, const(0, dtype), pixel * lanes)
        base = self.base(place, channel)
        height, width = self.filter.size
        with b.loop(0, height, "tap") as tap:
            line = b.let(base + tap * b.size(self.source.strides[2] * self.filter.dilation[0]))
            values = {
                column: b.let(self._feature(line, column, lanes, count))
                for column in self.filter.columns(pixels)
            }
            for step in range(width):
                weight = b.let(self._weight(tap, step, channel, lanes))
                for pixel in range(pixels):
                    before = load(totals, pixel * lanes, lanes)
                    value = values[self.filter.column(pixel, step)]
                    total = self.isa.multiply_add(value, weight, before)
                    b.store(totals, total, pixel * lanes)
        image, row, first = place
        results = []
        for pixel in range(pixels):
            total = load(totals, pixel * lanes, lanes)
            coordinates = (image, channel, row, b.let(first + index(pixel)))
            value = cast(total, "int32") if self.is_integer else total
            results.append(self.result(coordinates, value, lanes, count))
        self.epilogue.finish_all(results, 1)

    def _feature(self, line: Expr, column: int, lanes: int, count: Expr | None) -> Expr:
        source = self.inputs[self.source_at]
        at = line + self.b.size(self.source.strides[3]) * index(column)
        whole = count is None
        value = load(source, at, lanes) if whole else load_masked(source, at, lanes, count)
        if self.is_integer:
            return cast(cast(value, "int32"), "float32")
        return from_memory(value, self.source.dtype)

    def _weight(self, tap: Expr, step: int, channel: Expr, lanes: int) -> Expr:
        padded = -(-self.channels // self.isa.lanes) * self.isa.lanes
        at = (tap * index(self.filter.size[1]) + index(step)) * index(padded) + channel
        return load(self.weights, at, lanes)
