"""What all depthwise kernels share: parameters, geometry, the epilogue of a vector of channels."""

from dataclasses import dataclass
from typing import Any

from torch import fx

from effc.codegen.access import Access
from effc.codegen.dtypes import stored
from effc.codegen.epilogue import Epilogue, Result
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.product_plan import epilogue_inputs, zero_point_of
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder
from effc.codegen.narrow import Narrowing
from effc.codegen.region import Region
from effc.codegen.tir import Expr, cast, index, load, load_masked, splat
from effc.ir.opspec import op_name


@dataclass(frozen=True)
class Filter:
    """The geometry of a depthwise convolution; pairs are vertical, horizontal."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, region: Region, anchor: fx.Node) -> "Filter":
        """Read the geometry of a convolution."""
        weight = region.inputs[region.input_of(anchor.args[1])].shape
        stride, padding, dilation = (tuple(value) for value in anchor.args[3:6])
        return cls((weight[2], weight[3]), stride, padding, dilation)

    def columns(self, pixels: int) -> list[int]:
        """Input columns, relative to the first pixel's first tap, that a run of pixels reads."""
        return sorted({self.column(p, tap) for p in range(pixels) for tap in range(self.size[1])})

    def column(self, pixel: int, tap: int) -> int:
        """The input column of a pixel's tap."""
        return pixel * self.stride[1] + tap * self.dilation[1]

    def lines(self, rows: int) -> list[int]:
        """Input rows, relative to the first row's first tap, that some output rows read."""
        return sorted({self.line(r, tap) for r in range(rows) for tap in range(self.size[0])})

    def line(self, row: int, tap: int) -> int:
        """The input row of an output row's tap."""
        return row * self.stride[0] + tap * self.dilation[0]


class Frame:
    """Declares the parameters of a depthwise kernel and finishes its results."""

    def __init__(
        self, region: Region, isa: Isa, anchor: fx.Node, name: str, symbols: tuple[str, ...]
    ) -> None:
        self.region, self.isa, self.anchor = region, isa, anchor
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.inputs = [
            self.function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)
        ]
        self.outputs = [
            self.function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        self.is_integer = "integer" in op_name(anchor)
        self.sums = self.function.param("packed", "sums", "int32") if self.is_integer else None
        self.domain = region.shape(anchor)
        self.source_at = region.input_of(anchor.args[0])
        self.source: Access = region.inputs[self.source_at]
        self.weight_at = region.input_of(anchor.args[1])
        self.filter = Filter.of(region, anchor)
        self.channels = self.domain[1]
        touched = epilogue_inputs(region, anchor)
        accesses = [
            a.aligned_to(self.domain) if i in touched else a for i, a in enumerate(region.inputs)
        ]
        has_pairs = "_half" in op_name(anchor) and isa.has_bfloat16
        if has_pairs:
            self.function.import_llvm(isa.pair_code)
        self.evaluator = Evaluator(
            region, self.b, self.inputs, accesses, pointwise=True,
            round_pairs=isa.round_pairs if has_pairs else None,
        )  # fmt: skip
        narrowing = Narrowing.of(region, isa)
        if narrowing is not None:
            self.function.import_llvm(narrowing.code)
        self.epilogue = Epilogue(
            anchor, self.evaluator, self.outputs, region.outputs, isa.has_masks, narrowing
        )
        self.zero_point = zero_point_of(anchor)
        self.static_zero = self._static_zero()

    def _static_zero(self) -> int | None:
        if self.zero_point is None:
            return None
        position = self.region.input_of(self.zero_point)
        return position if self.region.weights[position] else None

    def base(self, place: tuple[Expr, ...], channel: Expr) -> Expr:
        """Offset of the first tap of the first pixel."""
        b, (image, row, column) = self.b, place
        strides, f = self.source.strides, self.filter
        total = image * b.size(strides[0]) + channel
        total = total + (row * index(f.stride[0]) - index(f.padding[0])) * b.size(strides[2])
        return b.let(
            total + (column * index(f.stride[1]) - index(f.padding[1])) * b.size(strides[3])
        )

    def result(
        self, coordinates: tuple[Expr, ...], total: Expr, lanes: int, count: Expr | None
    ) -> Result:
        """A vector of channels for the epilogue.

        Args:
            coordinates: Of the first channel in the domain.
            total: Its sums, int32 for codes.
            lanes: Channels of the vector.
            count: How many of them there are, or None for all.
        """
        if self.is_integer:
            point = Point(coordinates, 1 if lanes > 1 else None, lanes, count)
            total = self.centred(total, point)
        valid = lanes if count is None else int(count)
        return Result(total, coordinates, valid, 0)

    def centred(self, total: Expr, point: Point) -> Expr:
        """Take off the zero point of the activations."""
        if self.zero_point is None:
            return total
        channel, lanes = point.coordinates[1], point.lanes
        if point.count is not None:
            sums: Any = load_masked(self.sums, channel, lanes, point.count)
        else:
            sums = load(self.sums, channel, lanes)
        if self.static_zero is not None:
            return total + sums
        value = self.evaluator.fresh({}).value(self.zero_point, Point(point.coordinates))
        return total + sums * splat(cast(self.b.let(value), "int32"), lanes)
