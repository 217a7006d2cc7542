"""Activation functions and clamping, on scalars or vectors."""

import math
from collections.abc import Callable

from torch import fx
from tvm import tirx

from effc.codegen import vector_math
from effc.codegen.operands import NeedsScalarError, argument, bound
from effc.codegen.tir import Builder, Expr

Rule = Callable[[Builder, fx.Node, list[Expr]], Expr]


def _plain(function: Callable[..., Expr]) -> Rule:
    return lambda b, node, operands: function(*operands)


def _hardtanh(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    low, high = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
    return clamp(operands[0], low, high)


def relu(x: Expr) -> Expr:
    """max(x, 0); NaN stays: `Max` gives its second operand where one is NaN."""
    return tirx.Max(bound(x, 0), x)


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
    grown = vector_math.exp(b, b.let(tirx.Min(bound(x, threshold), scaled))) + bound(x, 1.0)
    soft = vector_math.log(b, b.let(grown)) * bound(x, 1.0 / beta)
    return tirx.Select(scaled > bound(x, threshold), x, soft)


def _mish(b: Builder, node: fx.Node, operands: list[Expr]) -> Expr:
    x = operands[0]
    grown = b.let(vector_math.exp(b, b.let(tirx.Min(x, bound(x, 20.0)))) + bound(x, 1.0))
    square = b.let(grown * grown)
    return tirx.Select(
        x > bound(x, 20.0), x, x * (square - bound(x, 1.0)) / (square + bound(x, 1.0))
    )


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


RULES: dict[str, Rule] = {
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
}
