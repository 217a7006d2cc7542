"""Codes from numbers and numbers from codes, on scalars or vectors."""

from collections.abc import Callable

import torch
from torch import fx
from tvm import tirx

from effc.codegen import vector_math
from effc.codegen.dtypes import held
from effc.codegen.operands import bound, is_nan
from effc.codegen.tir import Builder, Expr, cast, const, dtype_of, lanes_of, llvm, with_lanes
from effc.ir.float_formats import LARGEST as LARGEST_FLOAT
from effc.ir.float_formats import MINIFLOATS
from effc.ir.ops.interpolation import PART_BITS, SHIFT

Rule = Callable[[Builder, fx.Node, list[Expr]], Expr]
LARGEST = 2**30
FLOAT_MANTISSA = 23


def _fused(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y, z = (cast(operand, "float32") for operand in operands)
    return vector_math.fma(x, y, z)


def _requantize(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    codes = requantized(b, node, operands)
    return _stored(b, node, tirx.Max(codes, bound(codes, node.args[3])))


def requantized(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    """The codes of a `requantize` as int32, limited from above only."""
    bits = vector_math.bits_of(b.let(_fused(b, node, operands)))
    largest = vector_math.bits_of(bound(operands[1], node.args[4]))
    below = vector_math.float_of(b.let(tirx.Min(bits, largest)))  # integers of the same order
    return b.let(llvm("llvm.lrint", dtype_of(bits), b.let(below)))


def _interpolate(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    base, slope, fraction_bits, dtype = node.args[1:]
    x = b.let(cast(operands[0], "int32"))
    part = x & bound(x, (1 << PART_BITS) - 1)
    piece = b.let(x >> bound(x, PART_BITS))
    grown = b.let(_entry(piece, slope) * part + bound(x, 1 << (SHIFT - 1))) >> bound(x, SHIFT)
    short, limits = torch.iinfo(torch.int16), torch.iinfo(dtype)
    fine = b.let(_entry(piece, base) + grown)
    fine = tirx.Max(tirx.Min(fine, bound(x, short.max)), bound(x, short.min))
    codes = b.let(fine >> bound(x, fraction_bits))
    return _stored(b, node, tirx.Max(tirx.Min(codes, bound(x, limits.max)), bound(x, limits.min)))


def _entry(at: Expr, table: list[int]) -> Expr:
    """The entry of a table whose length is a power of two, chosen by the lowest bits of a place."""
    if len(table) == 1:
        return bound(at, table[0])
    half = len(table) // 2
    is_low = tirx.EQ(at & bound(at, half), bound(at, 0))
    return tirx.Select(is_low, _entry(at, table[:half]), _entry(at, table[half:]))


def _quantize(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, scale, *zero_point = operands
    return _codes(b, node, x * b.let(bound(scale, 1.0) / scale), zero_point)


def _quantize_scaled(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, inverse, *zero_point = operands
    return _codes(b, node, x * inverse, zero_point)


def _codes(b: Builder, node: fx.Node, scaled: Expr, zero_point: list[Expr]) -> Expr:
    """Round half to even, add the zero point, clamp, convert."""
    low, high = node.args[3:5]
    scaled = b.let(scaled)
    codes = _rounded(b, scaled, LARGEST)
    if zero_point:
        if low < 0:  # the zero point may be, too
            codes = b.let(tirx.Max(codes, bound(codes, -LARGEST)))
        codes = b.let(codes + cast(zero_point[0], "int32"))
    limited = tirx.Min(tirx.Max(codes, bound(codes, low)), bound(codes, high))
    if low != 0:
        limited = tirx.Select(is_nan(scaled), bound(codes, 0), b.let(limited))
    return _stored(b, node, limited)


def _rounded(b: Builder, value: Expr, high: float) -> Expr:
    """The nearest integer of what is less than a limit.

    What int32 cannot hold, and NaN, which `Min` keeps, becomes its smallest number. Clamping from
    below is left to integers: processors do that in more of their pipes than for floats.
    """
    value = b.let(value)
    below = b.let(tirx.Min(bound(value, high), value))
    return b.let(llvm("llvm.lrint", with_lanes("int32", lanes_of(below)), below))


def _stored(b: Builder, node: fx.Node, codes: Expr) -> Expr:
    return cast(b.let(codes), held(node.meta["val"].dtype))


def _dequantize(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    codes = cast(operands[0], "int32")
    if len(operands) > 2:
        codes = codes - cast(operands[2], "int32")
    return cast(codes, "float32") * operands[1]


def _round_float(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    """Drop mantissa bits to nearest even; for subnormal results add and take off a large one."""
    x, name = operands[0], str(node.args[1])
    _, mantissa, bias = MINIFLOATS[name]
    u32 = with_lanes("uint32", lanes_of(x))
    drop = FLOAT_MANTISSA - mantissa
    bits = b.let(tirx.reinterpret(u32, x))
    odd = (bits >> const(drop, u32)) & const(1, u32)
    near = bits + const((1 << (drop - 1)) - 1, u32) + odd
    kept = near & const((1 << 32) - (1 << drop), u32)
    normal = tirx.reinterpret(dtype_of(x), b.let(kept))
    large = bound(x, 1.5 * 2.0 ** (FLOAT_MANTISSA + 1 - bias - mantissa))
    shifted = b.let(x + large)
    small = b.let(shifted - large)
    size = b.let(llvm("llvm.fabs", dtype_of(x), x))
    found = b.let(tirx.Select(size < bound(x, 2.0 ** (1 - bias)), small, normal))
    most = bound(x, LARGEST_FLOAT[name])
    limited = b.let(tirx.Max(tirx.Min(most, found), -most))
    return tirx.Select(is_nan(x), bound(x, 0.0), limited)


RULES: dict[str, Rule] = {
    "effc.round_float": _round_float,
    "effc.fused_multiply_add": _fused,
    "effc.requantize": _requantize,
    "effc.interpolate": _interpolate,
    "effc.quantize": _quantize,
    "effc.quantize_scaled": _quantize_scaled,
    "effc.dequantize": _dequantize,
}
