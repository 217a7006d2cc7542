"""Elementwise operators of one tensor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand

DIRECT = {
    "abs": "Abs", "ceil": "Ceil", "floor": "Floor", "neg": "Neg", "reciprocal": "Reciprocal",
    "relu": "Relu", "sign": "Sign", "sgn": "Sign", "sqrt": "Sqrt", "exp": "Exp", "log": "Log",
    "erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos",
    "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "sigmoid": "Sigmoid", "round": "Round",
    "softsign": "Softsign", "isnan": "IsNaN", "isinf": "IsInf", "selu": "Selu",
}  # fmt: skip
FLOAT_ONLY = ("Ceil", "Floor", "Round", "IsNaN", "IsInf")


def _direct(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x = next(iter(given.values()))
        source, result = dtype_of(x), dtype_of(node)
        if kind in FLOAT_ONLY and not source.is_floating_point:
            return graph.value(x) if result == source else graph.cast(graph.value(x), result)
        dtype = source if result == torch.bool else result
        return graph.op(kind, operand(graph, x, dtype))

    return rule


def _of_float(function: Callable[[Graph, str, Callable[[float], str], Arguments], str]) -> Rule:
    """A rule that spells an operator out; gets the value and a maker of constants of its type."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, dtype = next(iter(given.values())), dtype_of(node)

        def number(value: float) -> str:
            return graph.constant(value, dtype)

        return function(graph, operand(graph, x, dtype), number, given)

    return rule


def _gelu(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    if given["approximate"] == "none":
        inner = graph.op("Erf", graph.op("Div", x, number(math.sqrt(2))))
        twice = graph.op("Mul", x, graph.op("Add", inner, number(1.0)))
        return graph.op("Mul", twice, number(0.5))
    cubic = graph.op("Mul", graph.op("Mul", x, graph.op("Mul", x, x)), number(0.044715))
    inner = graph.op("Mul", graph.op("Add", x, cubic), number(math.sqrt(2 / math.pi)))
    half = graph.op("Mul", x, number(0.5))
    return graph.op("Mul", half, graph.op("Add", graph.op("Tanh", inner), number(1.0)))


def _softplus(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    beta = float(given.get("beta", 1.0))
    if beta == 1:
        return graph.op("Softplus", x)
    return graph.op("Div", graph.op("Softplus", graph.op("Mul", x, number(beta))), number(beta))


def _mish(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))


def _silu(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _hard_sigmoid(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def _hard_swish(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Mul", x, graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _elu(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    if given["input_scale"] != 1:
        x = graph.op("Mul", x, number(given["input_scale"]))
    result = graph.op("Elu", x, alpha=float(given["alpha"]))
    return result if given["scale"] == 1 else graph.op("Mul", result, number(given["scale"]))


def _celu(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Celu", x, alpha=float(given["alpha"]))


def _leaky(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("LeakyRelu", x, alpha=float(given["negative_slope"]))


def _log_sigmoid(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Neg", graph.op("Softplus", graph.op("Neg", x)))


def _truncated(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    is_negative = graph.op("Less", x, number(0.0))
    return graph.op("Where", is_negative, graph.op("Ceil", x), graph.op("Floor", x))


def _threshold(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    is_above = graph.op("Greater", x, number(given["threshold"]))
    return graph.op("Where", is_above, x, number(given["value"]))


def _scaled(kind: str, before: float = 0.0, after: float = 1.0) -> Rule:
    """`after * kind(x + before)`."""

    def function(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
        x = x if before == 0 else graph.op("Add", x, number(before))
        result = graph.op(kind, x)
        return result if after == 1 else graph.op("Mul", result, number(after))

    return _of_float(function)


def _exp_minus(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Sub", graph.op("Exp", x), number(1.0))


def _power_of_two(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Exp", graph.op("Mul", x, number(math.log(2))))


def _inverse_root(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Reciprocal", graph.op("Sqrt", x))


def _square(graph: Graph, x: str, number: Callable[[float], str], given: Arguments) -> str:
    return graph.op("Mul", x, x)


def _limited(low: str, high: str, fixed: tuple[Any, Any] = (None, None)) -> Rule:
    """Clip to two arguments, or to fixed limits."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        dtype = dtype_of(node)
        limits = [given.get(low, fixed[0]), given.get(high, fixed[1])]
        result = operand(graph, next(iter(given.values())), dtype)
        for kind, limit in zip(("Max", "Min"), limits, strict=True):
            if limit is not None and isinstance(limit, fx.Node):
                result = graph.op(kind, result, operand(graph, limit, dtype))
        plain = [None if isinstance(limit, fx.Node) else limit for limit in limits]
        names = ["" if limit is None else graph.constant(limit, dtype) for limit in plain]
        return graph.op("Clip", result, *names) if any(names) else result

    return rule


def _nan_to_num(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, dtype = graph.value(given["self"]), dtype_of(node)
    if not dtype.is_floating_point:
        return x
    info = torch.finfo(dtype)
    limits = [
        info.min if given["neginf"] is None else given["neginf"],
        info.max if given["posinf"] is None else given["posinf"],
    ]
    filler = graph.constant(given["nan"] or 0.0, dtype)
    plain = graph.op("Where", graph.op("IsNaN", x), filler, x)
    if limits == [info.min, info.max]:
        return graph.op("Clip", plain, *[graph.constant(limit, dtype) for limit in limits])
    for limit, signs in zip(limits, ((0, 1), (1, 0)), strict=True):
        where = graph.op("IsInf", plain, detect_positive=signs[0], detect_negative=signs[1])
        plain = graph.op("Where", where, graph.constant(limit, dtype), plain)
    return plain


def _not(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return graph.op("Not", operand(graph, given["self"], torch.bool))


def _bitwise_not(graph: Graph, node: fx.Node, given: Arguments) -> str:
    if dtype_of(node) == torch.bool:
        return graph.op("Not", graph.value(given["self"]))
    graph.need(18)
    return graph.op("BitwiseNot", graph.value(given["self"]))


def _cast(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return operand(graph, next(iter(given.values())), dtype_of(node))


def _same(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return graph.value(next(iter(given.values())))


def _copied(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """`copy`: the second tensor in the shape and type of the first."""
    source = operand(graph, given["src"], dtype_of(node))
    return graph.op("Expand", source, graph.sizes(node.meta["val"].shape))


TABLE: dict[str, Rule] = {
    **{f"aten.{name}.default": _direct(kind) for name, kind in DIRECT.items()},
    "aten.gelu.default": _of_float(_gelu),
    "aten.softplus.default": _of_float(_softplus),
    "aten.mish.default": _of_float(_mish),
    "aten.silu.default": _of_float(_silu),
    "aten.hardsigmoid.default": _of_float(_hard_sigmoid),
    "aten.hardswish.default": _of_float(_hard_swish),
    "aten.elu.default": _of_float(_elu),
    "aten.celu.default": _of_float(_celu),
    "aten.leaky_relu.default": _of_float(_leaky),
    "aten.log_sigmoid.default": _of_float(_log_sigmoid),
    "aten.trunc.default": _of_float(_truncated),
    "aten.threshold.default": _of_float(_threshold),
    "aten.expm1.default": _of_float(_exp_minus),
    "aten.exp2.default": _of_float(_power_of_two),
    "aten.log1p.default": _scaled("Log", before=1.0),
    "aten.log2.default": _scaled("Log", after=1 / math.log(2)),
    "aten.log10.default": _scaled("Log", after=1 / math.log(10)),
    "aten.rsqrt.default": _of_float(_inverse_root),
    "aten.square.default": _of_float(_square),
    "aten.clamp.default": _limited("min", "max"),
    "aten.clamp.Tensor": _limited("min", "max"),
    "aten.clamp_min.default": _limited("min", ""),
    "aten.clamp_max.default": _limited("", "max"),
    "aten.hardtanh.default": _limited("min_val", "max_val"),
    "aten.relu6.default": _limited("", "", (0.0, 6.0)),
    "aten.nan_to_num.default": _nan_to_num,
    "aten.logical_not.default": _not,
    "aten.bitwise_not.default": _bitwise_not,
    "aten._to_copy.default": _cast,
    "aten.to.dtype": _cast,
    "aten.type_as.default": _cast,
    "aten.to.device": _same,
    **{
        f"aten.{name}.default": _same
        for name in ("clone", "contiguous", "detach", "detach_", "alias", "lift_fresh_copy")
    },
    "aten.copy.default": _copied,
}
