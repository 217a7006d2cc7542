"""Elementwise operators as expressions on scalars or vectors.

Each entry gets the builder, the node, and its tensor operands as expressions already converted to
the type the operator computes in.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from tvm import tirx

from effc.codegen import vector_math
from effc.codegen.dtypes import held
from effc.codegen.tir import Builder, Expr, cast, const, dtype_of, lanes_of, same_type, split_dtype

Rule = Callable[[Builder, fx.Node, list[Expr]], Expr]


class NeedsScalarError(Exception):
    """Raised while building a vector kernel when something exists one element at a time only."""


def bound(expr: Expr, value: float) -> Expr:
    """A constant of the type and lanes of an expression."""
    return const(value, dtype_of(expr))


def is_float(expr: Expr) -> bool:
    """Whether an expression is floating-point."""
    return dtype_of(expr).startswith("float")


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """A constant argument by position or name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def library(name: str, *operands: Expr) -> Expr:
    """Call a function of the C library, one element at a time."""
    if lanes_of(operands[0]) > 1:
        raise NeedsScalarError(name)
    dtype = dtype_of(operands[0])
    suffix = "f" if dtype == "float32" else ""
    return tirx.call_pure_extern(dtype, name + suffix, *operands)


def _vector(name: str, function: Callable[[Builder, Expr], Expr]) -> Rule:
    """A float32 polynomial, or the C library for other types."""

    def rule(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
        if split_dtype(dtype_of(operands[0]))[0] == "float32":
            return function(b, operands[0])
        return library(name, operands[0])

    return rule


def _library(name: str) -> Rule:
    return lambda b, node, operands: library(name, *operands)


def _plain(function: Callable[..., Expr]) -> Rule:
    return lambda b, node, operands: function(*operands)


def clamp(x: Expr, low: float | None, high: float | None) -> Expr:
    """Limit to a range; NaN stays."""
    if low is not None:
        x = tirx.Select(x < bound(x, low), bound(x, low), x)
    if high is not None:
        x = tirx.Select(x > bound(x, high), bound(x, high), x)
    return x


def _clamp(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    low, high = argument(node, 1, "min", None), argument(node, 2, "max", None)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        raise NeedsScalarError("clamp with tensors")
    return clamp(operands[0], low, high)


def _hardtanh(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    return clamp(operands[0], low, high)


def relu(x: Expr) -> Expr:
    """max(x, 0)."""
    return tirx.Max(x, bound(x, 0))


def _add(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y = operands
    if dtype_of(x).startswith("bool"):
        return x | y
    alpha = node.kwargs.get("alpha", 1)
    return x + y if alpha == 1 else x + y * bound(y, alpha)


def _sub(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y = operands
    alpha = node.kwargs.get("alpha", 1)
    return x - y if alpha == 1 else x - y * bound(y, alpha)


def _mul(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y = operands
    return x & y if dtype_of(x).startswith("bool") else x * y


def floor_divide(x: Expr, y: Expr) -> Expr:
    """Quotient rounded down."""
    if is_float(x):
        return same_type("llvm.floor", x / y)
    quotient = tirx.Div(x, y)
    wrong = tirx.Mod(x, y)
    negative = ((x < bound(x, 0)) ^ (y < bound(y, 0))) & tirx.NE(wrong, bound(x, 0))
    return tirx.Select(negative, quotient - bound(x, 1), quotient)


def remainder(x: Expr, y: Expr) -> Expr:
    """Remainder with the sign of the divisor."""
    return x - floor_divide(x, y) * y


def _div_mode(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y = operands
    mode = node.kwargs.get("rounding_mode")
    if mode == "floor":
        return floor_divide(x, y)
    if mode == "trunc":
        return same_type("llvm.trunc", x / y) if is_float(x) else tirx.Div(x, y)
    return x / y


def _divide(x: Expr, y: Expr) -> Expr:
    return x / y


def _gelu(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    half = b.let(x * bound(x, 0.5))
    if argument(node, 1, "approximate", "none") == "tanh":
        cubic = b.let(vector_math.fma(bound(x, 0.044715) * x * x, x, x))
        inner = vector_math.tanh(b, b.let(cubic * bound(x, math.sqrt(2 / math.pi))))
    else:
        inner = vector_math.erf(b, b.let(x * bound(x, math.sqrt(0.5))))
    return vector_math.fma(half, inner, half)


def _hardsigmoid(x: Expr) -> Expr:
    return clamp(x * bound(x, 1 / 6) + bound(x, 0.5), 0.0, 1.0)


def _hardswish(x: Expr) -> Expr:
    return x * (clamp(x + bound(x, 3.0), 0.0, 6.0) * bound(x, 1 / 6))


def _leaky_relu(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    slope = argument(node, 1, "negative_slope", 0.01)
    return tirx.Select(x > bound(x, 0), x, x * bound(x, slope))


def _elu(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    alpha, scale = argument(node, 1, "alpha", 1.0), argument(node, 2, "scale", 1.0)
    inner = argument(node, 3, "input_scale", 1.0)
    low = vector_math.exp(b, b.let(x * bound(x, inner))) - bound(x, 1.0)
    return tirx.Select(x > bound(x, 0), x * bound(x, scale), low * bound(x, alpha * scale))


def _softplus(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    beta, threshold = argument(node, 1, "beta", 1.0), argument(node, 2, "threshold", 20.0)
    scaled = b.let(x * bound(x, beta))
    grown = vector_math.exp(b, b.let(tirx.Min(scaled, bound(x, threshold)))) + bound(x, 1.0)
    soft = vector_math.log(b, b.let(grown)) * bound(x, 1.0 / beta)
    return tirx.Select(scaled > bound(x, threshold), x, soft)


def _mish(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    grown = b.let(vector_math.exp(b, b.let(tirx.Min(x, bound(x, 20.0)))) + bound(x, 1.0))
    square = b.let(grown * grown)
    return tirx.Select(
        x > bound(x, 20.0), x, x * (square - bound(x, 1.0)) / (square + bound(x, 1.0))
    )


def _power(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    exponent = node.args[1]
    if isinstance(exponent, int | float):
        if exponent == 2:
            return x * x
        if exponent == 3:
            return x * x * x
        if exponent == 1:
            return x
        if exponent == 0.5:
            return same_type("llvm.sqrt", x)
        if exponent == -0.5:
            return bound(x, 1.0) / same_type("llvm.sqrt", x)
        if exponent == -1:
            return bound(x, 1.0) / x
    return library("pow", x, operands[1])


def _where(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    condition, x, y = operands
    return tirx.Select(condition, x, y)


def _masked_fill(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, condition, value = operands
    return tirx.Select(condition, value, x)


def _not(x: Expr) -> Expr:
    return tirx.bitwise_xor(x, const(True, dtype_of(x))) if is_bool(x) else tirx.bitwise_not(x)


def _logical_not(x: Expr) -> Expr:
    return _not(x) if is_bool(x) else tirx.EQ(x, bound(x, 0))


def is_bool(x: Expr) -> bool:
    """Whether an expression is a predicate."""
    return dtype_of(x).startswith("bool")


def _sign(x: Expr) -> Expr:
    one = tirx.Select(x > bound(x, 0), bound(x, 1), bound(x, 0))
    return tirx.Select(x < bound(x, 0), bound(x, -1), one)


def _absolute(x: Expr) -> Expr:
    return same_type("llvm.fabs", x) if is_float(x) else tirx.Max(x, bound(x, 0) - x)


def _rounding(name: str) -> Rule:
    return lambda b, node, ops: same_type(name, ops[0]) if is_float(ops[0]) else ops[0]


def _fused(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y, z = (cast(operand, "float32") for operand in operands)
    return vector_math.fma(x, y, z)


def _quantize(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, scale = operands[:2]
    inverse = (
        b.let(bound(scale, 1.0) / scale) if not is_constant(scale) else bound(scale, 1.0) / scale
    )
    codes = same_type("llvm.nearbyint", x * inverse)
    if len(operands) > 2:
        codes = codes + cast(operands[2], "float32")
    qmin, qmax = node.args[3], node.args[4]
    limited = tirx.Max(tirx.Min(codes, bound(codes, qmax)), bound(codes, qmin))
    return cast(cast(b.let(limited), "int32"), held(node.meta["val"].dtype))


def is_constant(expr: Expr) -> bool:
    """Whether an expression is a literal."""
    return isinstance(expr, tirx.FloatImm | tirx.IntImm)


def _dequantize(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    codes = cast(operands[0], "int32")
    if len(operands) > 2:
        codes = codes - cast(operands[2], "int32")
    return cast(codes, "float32") * operands[1]


def _addcmul(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y, z = operands
    return x + y * z * bound(x, node.kwargs.get("value", 1))


def _addcdiv(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y, z = operands
    return x + y / z * bound(x, node.kwargs.get("value", 1))


def _lerp(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y, weight = operands
    return x + weight * (y - x)


def _identity(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    return operands[0]


def _compare(make: Callable[[Expr, Expr], Expr]) -> Rule:
    return lambda b, node, operands: make(*operands)


RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _sub,
    "rsub": lambda b, node, operands: _sub(b, node, operands[::-1]),
    "mul": _mul,
    "div": _div_mode,
    "true_divide": _plain(_divide),
    "floor_divide": _plain(floor_divide),
    "remainder": _plain(remainder),
    "fmod": _plain(
        lambda x, y: x - same_type("llvm.trunc", x / y) * y if is_float(x) else tirx.Mod(x, y)
    ),
    "neg": _plain(lambda x: bound(x, 0) - x),
    "abs": _plain(_absolute),
    "sign": _plain(_sign),
    "sgn": _plain(_sign),
    "square": _plain(lambda x: x * x),
    "reciprocal": _plain(lambda x: bound(x, 1.0) / x),
    "sqrt": _plain(lambda x: same_type("llvm.sqrt", x)),
    "rsqrt": _plain(lambda x: bound(x, 1.0) / same_type("llvm.sqrt", x)),
    "exp": _vector("exp", vector_math.exp),
    "exp2": _vector("exp2", lambda b, x: vector_math.exp(b, b.let(x * bound(x, math.log(2))))),
    "expm1": _library("expm1"),
    "log": _vector("log", vector_math.log),
    "log2": _vector("log2", lambda b, x: vector_math.log(b, x) * bound(x, 1 / math.log(2))),
    "log10": _vector("log10", lambda b, x: vector_math.log(b, x) * bound(x, 1 / math.log(10))),
    "log1p": _library("log1p"),
    "erf": _vector("erf", vector_math.erf),
    "tanh": _vector("tanh", vector_math.tanh),
    "sigmoid": _vector("sigmoid", vector_math.sigmoid),
    "silu": _vector("silu", vector_math.silu),
    "sin": _library("sin"),
    "cos": _library("cos"),
    "tan": _library("tan"),
    "sinh": _library("sinh"),
    "cosh": _library("cosh"),
    "asin": _library("asin"),
    "acos": _library("acos"),
    "atan": _library("atan"),
    "atan2": _library("atan2"),
    "gelu": _gelu,
    "relu": _plain(relu),
    "relu6": _plain(lambda x: clamp(x, 0.0, 6.0)),
    "hardtanh": _hardtanh,
    "hardsigmoid": _plain(_hardsigmoid),
    "hardswish": _plain(_hardswish),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "mish": _mish,
    "clamp": _clamp,
    "clamp_min": lambda b, node, operands: clamp(operands[0], node.args[1], None),
    "clamp_max": lambda b, node, operands: clamp(operands[0], None, node.args[1]),
    "pow": _power,
    "maximum": _plain(lambda x, y: tirx.Select(tirx.NE(x, x), x, tirx.Max(x, y))),
    "minimum": _plain(lambda x, y: tirx.Select(tirx.NE(x, x), x, tirx.Min(x, y))),
    "where": _where,
    "masked_fill": _masked_fill,
    "eq": _compare(tirx.EQ),
    "ne": _compare(tirx.NE),
    "lt": _compare(tirx.LT),
    "le": _compare(tirx.LE),
    "gt": _compare(tirx.GT),
    "ge": _compare(tirx.GE),
    "bitwise_and": _plain(lambda x, y: x & y),
    "bitwise_or": _plain(lambda x, y: x | y),
    "bitwise_xor": _plain(lambda x, y: x ^ y),
    "__and__": _plain(lambda x, y: x & y),
    "__or__": _plain(lambda x, y: x | y),
    "logical_and": _plain(lambda x, y: truth(x) & truth(y)),
    "logical_or": _plain(lambda x, y: truth(x) | truth(y)),
    "logical_xor": _plain(lambda x, y: truth(x) ^ truth(y)),
    "bitwise_not": _plain(_not),
    "logical_not": _plain(_logical_not),
    "isnan": _plain(lambda x: tirx.NE(x, x)),
    "floor": _rounding("llvm.floor"),
    "ceil": _rounding("llvm.ceil"),
    "trunc": _rounding("llvm.trunc"),
    "round": _rounding("llvm.nearbyint"),
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "clone": _identity,
    "contiguous": _identity,
    "_to_copy": _identity,
    "to": _identity,
    "effc.fused_multiply_add": _fused,
    "effc.quantize": _quantize,
    "effc.dequantize": _dequantize,
}


def truth(x: Expr) -> Expr:
    """A predicate: whether a value is not zero."""
    return x if is_bool(x) else tirx.NE(x, bound(x, 0))


COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
KEEPS_OPERANDS = {"effc.fused_multiply_add", "effc.quantize", "effc.dequantize", "isnan", "isinf"}
LOGICAL = {"logical_and", "logical_or", "logical_xor", "logical_not"}


def base_name(op: str) -> str:
    """`aten.add.Tensor` to `add`, `effc.quantize.default` to `effc.quantize`."""
    namespace, name = op.split(".")[:2]
    return name if namespace == "aten" else f"{namespace}.{name}"


def compute_type(node: fx.Node, name: str) -> torch.dtype | None:
    """The type an operator converts its operands to, or None if it keeps them as they are."""
    if name in KEEPS_OPERANDS or name in LOGICAL:
        return None
    result = node.meta["val"].dtype
    if name not in COMPARISONS:
        return result
    values = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in node.args[:2]]
    return torch.result_type(*values)
