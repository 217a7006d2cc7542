"""Elementwise operators as expressions on scalars or vectors.

Each entry gets the builder, the node, and its tensor operands as expressions already converted to
the type the operator computes in.
"""

import math
from collections.abc import Callable

import torch
from torch import fx
from tvm import tirx

from effc.codegen import activations, quantization, vector_math
from effc.codegen.integers import (
    floor_divide,
    remainder,
    shifted_left,
    shifted_right,
    truncated_divide,
)
from effc.codegen.operands import (
    argument,
    bound,
    is_bool,
    is_float,
    is_nan,
    larger,
    library,
    negated,
    smaller,
    truth,
)
from effc.codegen.tir import (
    Builder,
    Expr,
    cast,
    dtype_of,
    same_type,
    split_dtype,
)
from effc.ir.errors import BuildError

Rule = Callable[[Builder, fx.Node, list[Expr]], Expr]


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


def _div_mode(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, y = operands
    mode = node.kwargs.get("rounding_mode")
    if mode == "floor":
        return floor_divide(x, y)
    if mode == "trunc":
        return same_type("llvm.trunc", x / y) if is_float(x) else truncated_divide(x, y)
    return x / y


def _divide(x: Expr, y: Expr) -> Expr:
    return x / y


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
        if not is_float(x):
            return _repeated_product(b, x, int(exponent))
    if not is_float(x):
        raise BuildError("powers of integers by a tensor")
    return library("pow", x, operands[1])


def _repeated_product(b: Builder, x: Expr, exponent: int) -> Expr:
    """`x` to a constant power that is not negative, by squaring."""
    result = bound(x, 1)
    while exponent:
        result = b.let(result * x) if exponent % 2 else result
        x, exponent = b.let(x * x), exponent // 2
    return result


def _where(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    condition, x, y = operands
    return tirx.Select(condition, x, y)


def _masked_fill(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x, condition, value = operands
    return tirx.Select(condition, value, x)


def _not(x: Expr) -> Expr:
    return negated(x) if is_bool(x) else tirx.bitwise_not(x)


def _logical_not(x: Expr) -> Expr:
    return _not(x) if is_bool(x) else tirx.EQ(x, bound(x, 0))


def _sign(x: Expr) -> Expr:
    one = tirx.Select(x > bound(x, 0), bound(x, 1), bound(x, 0))
    return tirx.Select(x < bound(x, 0), bound(x, -1), one)


def _absolute(x: Expr) -> Expr:
    return same_type("llvm.fabs", x) if is_float(x) else tirx.Max(x, bound(x, 0) - x)


def _rounding(name: str) -> Rule:
    return lambda b, node, ops: same_type(name, ops[0]) if is_float(ops[0]) else ops[0]


def _nan_to_num(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    if not is_float(x):
        return x
    largest = float(torch.finfo(node.meta["val"].dtype).max)
    nan, high, low = (argument(node, place, name, None) for place, name in NAN_ARGUMENTS)
    value = tirx.Select(is_nan(x), bound(x, nan or 0.0), x)
    value = tirx.Select(
        value > bound(x, largest), bound(x, largest if high is None else high), value
    )
    return tirx.Select(
        value < bound(x, -largest), bound(x, -largest if low is None else low), value
    )


NAN_ARGUMENTS = ((1, "nan"), (2, "posinf"), (3, "neginf"))


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
    """A comparison; of predicates as bytes, which TVM can compare."""
    return lambda b, node, operands: make(
        *[cast(x, "uint8") if is_bool(x) else x for x in operands]
    )


def _fmod(x: Expr, y: Expr) -> Expr:
    """Remainder with the sign of the dividend."""
    if is_float(x):
        return library("fmod", x, y)
    return x - truncated_divide(x, y) * y


RULES: dict[str, Rule] = {
    **activations.RULES,
    **quantization.RULES,
    "add": _add,
    "sub": _sub,
    "rsub": lambda b, node, operands: _sub(b, node, operands[::-1]),
    "mul": _mul,
    "div": _div_mode,
    "true_divide": _plain(_divide),
    "floor_divide": _plain(floor_divide),
    "remainder": _plain(remainder),
    "fmod": _plain(_fmod),
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
    "asinh": _library("asinh"),
    "acosh": _library("acosh"),
    "atanh": _library("atanh"),
    "pow": _power,
    "maximum": _plain(larger),
    "minimum": _plain(smaller),
    "where": _where,
    "masked_fill": _masked_fill,
    "eq": _compare(tirx.EQ),
    "ne": _compare(lambda x, y: negated(tirx.EQ(x, y))),
    "lt": _compare(tirx.LT),
    "le": _compare(tirx.LE),
    "gt": _compare(tirx.GT),
    "ge": _compare(tirx.GE),
    "bitwise_and": _plain(lambda x, y: x & y),
    "bitwise_or": _plain(lambda x, y: x | y),
    "bitwise_xor": _plain(lambda x, y: x ^ y),
    "bitwise_left_shift": _plain(shifted_left),
    "bitwise_right_shift": _plain(shifted_right),
    "__lshift__": _plain(shifted_left),
    "__rshift__": _plain(shifted_right),
    "__and__": _plain(lambda x, y: x & y),
    "__or__": _plain(lambda x, y: x | y),
    "logical_and": _plain(lambda x, y: truth(x) & truth(y)),
    "logical_or": _plain(lambda x, y: truth(x) | truth(y)),
    "logical_xor": _plain(lambda x, y: truth(x) ^ truth(y)),
    "bitwise_not": _plain(_not),
    "logical_not": _plain(_logical_not),
    "isnan": _plain(is_nan),
    "isinf": _plain(lambda x: tirx.EQ(same_type("llvm.fabs", x), bound(x, math.inf))),
    "nan_to_num": _nan_to_num,
    "__xor__": _plain(lambda x, y: x ^ y),
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
}


COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}
KEEPS_OPERANDS = {
    "effc.fused_multiply_add",
    "effc.requantize",
    "effc.interpolate",
    "effc.quantize",
    "effc.quantize_scaled",
    "effc.dequantize",
    "effc.round_float",
    "isnan",
    "isinf",
}
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
