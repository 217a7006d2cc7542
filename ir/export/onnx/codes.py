"""Codes with scales known in advance, as QuantizeLinear and DequantizeLinear write them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto, helper
from torch import fx

from effc.ir.encoding import pack_codes, unpack_codes
from effc.ir.export.onnx.graph import Graph, array_of
from effc.ir.export.onnx.rules import Arguments, bound, dtype_of, rank_of
from effc.ir.ops.grouped import zero_points
from effc.ir.program import attribute

BYTES = (torch.uint8, torch.int8)
DEQUANTIZE = torch.ops.effc.dequantize.default
GROUPED = torch.ops.effc.dequantize_grouped.default
DYNAMIC = torch.ops.effc.quantize_dynamic.default


def stored(graph: Graph, value: Any) -> torch.Tensor | None:
    """The tensor of a weight; None for what is computed."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        found: torch.Tensor = attribute(graph.program.forward, value.target)
        return found.detach()
    return None


@dataclass(frozen=True)
class Scales:
    """A scale known in advance, per tensor or along one axis.

    Attributes:
        scale: Float vector, or one number.
        zero_point: Of the same shape, in the type of the codes.
        axis: Which dimension of the codes; None for one number.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    axis: int | None

    def names(self, graph: Graph) -> tuple[str, str]:
        """As constants of a graph."""
        return graph.constant(self.scale), graph.constant(self.zero_point)


def scales_of(
    graph: Graph, shape: list[Any], scale: Any, zero_point: Any, dtype: torch.dtype
) -> Scales | None:
    """Scales in ONNX's form; None where they have none there."""
    steps, zeros = stored(graph, scale), stored(graph, zero_point)
    if steps is None or dtype not in BYTES or (zero_point is not None and zeros is None):
        return None
    zeros = torch.zeros([], dtype=torch.int32) if zeros is None else zeros
    limits = torch.iinfo(dtype)
    if bool((zeros < limits.min).any()) or bool((zeros > limits.max).any()):
        return None
    whole = torch.broadcast_shapes(steps.shape, zeros.shape)  # type: ignore[no-untyped-call]
    wide = [1] * (len(shape) - len(whole)) + list(whole)
    axes = [place for place, size in enumerate(wide) if size != 1]
    if len(wide) > len(shape) or len(axes) > 1 or any(shape[a] != wide[a] for a in axes):
        return None
    parts = [part.expand(whole).reshape([-1] if axes else []) for part in (steps, zeros)]
    return Scales(parts[0].float(), parts[1].to(dtype), axes[0] if axes else None)


def columns(graph: Graph, weight: fx.Node) -> str | None:
    """The matrix [in, out] of a weight in codes [out, in]; None for other weights."""
    if weight.target is GROUPED:
        return grouped(graph, weight, is_transposed=True)
    if weight.target is not DEQUANTIZE or rank_of(weight) != 2:
        return None
    given = bound(weight)
    codes = given["codes"]
    tensor = stored(graph, codes)
    found = scales_of(graph, graph.shape_of(codes), given["scale"], given["zero_point"],
                      dtype_of(codes))  # fmt: skip
    if tensor is None or found is None:
        return None
    name = graph.weight(str(codes.target), "columns", lambda: array_of(tensor.t()))
    axis = None if found.axis is None else 1 - found.axis
    return graph.op("DequantizeLinear", name, *found.names(graph), axis=axis)


def integer_product(graph: Graph, node: fx.Node, given: Arguments) -> str | None:
    """A product of codes, where rows got their scales at run time; None for other layers.

    `(sum of code * weight code - zero point * sum of weight codes) * scale * weight scale`
    """
    x, weight = given["input"], given["weight"]
    if not (x.target is DEQUANTIZE and weight.target is DEQUANTIZE):
        return None
    rows, matrix = bound(x), bound(weight)
    source = rows["codes"].args[0] if rows["codes"].args else None
    tensor = stored(graph, matrix["codes"])
    if not isinstance(source, fx.Node) or source.target is not DYNAMIC or tensor is None:
        return None
    limits = [dim % rank_of(x) for dim in source.args[1]]
    found = scales_of(graph, list(tensor.shape), matrix["scale"], None, tensor.dtype)
    is_symmetric = matrix["zero_point"] is None and found is not None and found.axis in (None, 0)
    if rank_of(x) - 1 not in limits or not is_symmetric or found is None:
        return None
    name = graph.weight(str(matrix["codes"].target), "columns", lambda: array_of(tensor.t()))
    codes = graph.value(rows["codes"])
    whole = graph.scalars.get(source)
    if whole is not None:
        sums = graph.op("MatMulInteger", codes, name, whole[1])
        step = graph.op("Mul", whole[0], graph.constant(found.scale))
        return graph.op("Mul", graph.cast(sums, torch.float32), step)
    sums = graph.op("MatMulInteger", codes, name)
    totals = graph.constant(tensor.sum(1, dtype=torch.int32))
    shift = graph.op("Mul", graph.value(rows["zero_point"]), totals)
    exact = graph.cast(graph.op("Sub", sums, shift), torch.float32)
    step = graph.op("Mul", graph.value(rows["scale"]), graph.constant(found.scale))
    return graph.op("Mul", exact, step)


def grouped(graph: Graph, node: fx.Node, is_transposed: bool) -> str | None:
    """The weight of `dequantize_grouped`: the sum over planes; None if codes are computed."""
    given = bound(node)
    names = ("codes", "scale", "zero_point", "table")
    codes, scale, zeros, table = (stored(graph, given[name]) for name in names)
    if codes is None or scale is None or (given["table"] is not None and table is None):
        return None
    planes = range(len(codes)) if codes.dim() == 3 else [None]
    total = ""
    for plane in planes:
        pick = [
            part if part is None or plane is None else part[plane] for part in (codes, scale, zeros)
        ]
        label = f"{given['codes'].target}" + ("" if plane is None else f".{plane}")
        sizes = given["bits"], given["group"], given["features"]
        made = Blocks(pick[0], pick[1], pick[2], *sizes, table)
        name = made.name(graph, label, is_transposed)
        total = graph.op("Add", total, name) if total else name
    return total


@dataclass(frozen=True, eq=False)
class Blocks:
    """One plane of a weight in packed codes.

    Attributes:
        codes: uint8 `[rows, nbytes]`.
        scale: `[rows, groups]`.
        zero_point: uint8 `[rows, nbytes]`, or None for the middle code.
        bits: Width of a code.
        group: Features that share a scale.
        features: Codes per row.
        table: What codes stand for; None for themselves.
    """

    codes: Any
    scale: Any
    zero_point: Any
    bits: int
    group: int
    features: int
    table: Any = None

    def name(self, graph: Graph, label: str, is_transposed: bool) -> str:
        """Write codes and scales, and a DequantizeLinear of them."""
        block = math.gcd(self.group, self.features) if self.group < self.features else 0
        form = f"{'columns' if is_transposed else 'rows'}"
        width = 2 if self.bits <= 2 else 4 if self.bits <= 4 else 8
        if self.table is not None:
            return self._looked_up(graph, label, form, block)
        graph.need(25 if width == 2 else 21 if width == 4 or block else graph.needed)
        parts = [
            graph.weight(label, form, lambda: self._codes(width, is_transposed)),
            graph.weight(
                f"{label}.scale", form, lambda: array_of(self._scales(block, is_transposed))
            ),
        ]
        if self.zero_point is not None or self.bits != width:
            parts.append(
                graph.weight(
                    f"{label}.zero_point", form, lambda: self._zeros(width, block, is_transposed)
                )
            )
        settings = {"axis": 0 if is_transposed else 1, "block_size": block or None}
        if not block:
            settings["axis"] = 1 if is_transposed else 0
        return graph.op("DequantizeLinear", *parts, **settings)

    def _looked_up(self, graph: Graph, label: str, form: str, block: int) -> str:
        """Codes of a table, gathered and scaled: runtimes do this once, when they load a model."""
        is_transposed, width = form == "columns", 4 if self.bits <= 4 else 8
        graph.need(21 if width == 4 else graph.needed)
        codes = graph.weight(label, form, lambda: self._codes(width, is_transposed))
        places = graph.cast(codes, torch.int32)
        values = graph.op("Gather", graph.constant(self.table), places, axis=0)
        scales = self._scales(block, is_transposed)
        rows = len(self.codes)
        axis = 0 if is_transposed else 1
        if not block:
            shape = [1, -1] if is_transposed else [-1, 1]
            return graph.op("Mul", values, graph.constant(scales.reshape(shape)))
        split = [self.features // block, block]
        outer = [*split, rows] if is_transposed else [rows, *split]
        steps = graph.weight(f"{label}.scale", form, lambda: array_of(scales.unsqueeze(axis + 1)))
        scaled = graph.op("Mul", graph.reshaped(values, outer), steps)
        return graph.reshaped(
            scaled, [self.features, rows] if is_transposed else [rows, self.features]
        )

    def _codes(self, width: int, is_transposed: bool) -> Any:
        codes = unpack_codes(self.codes, self.bits, self.features)
        return self._proto(codes.t() if is_transposed else codes, width)

    def _proto(self, codes: torch.Tensor, width: int) -> Any:
        """Narrow codes as ONNX stores them; signed ones where 0 is the middle."""
        is_signed = self.zero_point is None and self.bits == width and self.table is None
        if is_signed:
            codes = codes ^ (1 << (width - 1))
        kinds = {2: ("UINT2", "INT2"), 4: ("UINT4", "INT4"), 8: ("UINT8", "INT8")}
        kind = getattr(TensorProto, kinds[width][is_signed])
        packed = pack_codes(codes.reshape(-1), width).numpy().tobytes()
        return helper.make_tensor("", kind, list(codes.shape), packed, raw=True)

    def _per_block(self, part: torch.Tensor, block: int, is_transposed: bool) -> torch.Tensor:
        if not block:
            return part.reshape(-1) if part.numel() > 1 else part.reshape([])
        part = part.repeat_interleave(self.group // block, -1)[:, : self.features // block]
        return (part.t() if is_transposed else part).contiguous()

    def _scales(self, block: int, is_transposed: bool) -> torch.Tensor:
        return self._per_block(self.scale.to(torch.float32), block, is_transposed)

    def _zeros(self, width: int, block: int, is_transposed: bool) -> Any:
        zeros = zero_points(self.scale, self.zero_point, self.bits)
        return self._proto(self._per_block(zeros, block, is_transposed), width)
