"""Elementwise operators of several tensors."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand, promoted

FORMS = ("Tensor", "Scalar")


def _pair(given: Arguments) -> tuple[Any, Any]:
    first, second = list(given.values())[:2]
    return first, second


def _binary(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        dtype = dtype_of(node)
        first, second = (operand(graph, value, dtype) for value in _pair(given))
        if dtype == torch.bool and kind in ("Add", "Mul"):
            return graph.op("Or" if kind == "Add" else "And", first, second)
        alpha = given.get("alpha", 1)
        if alpha != 1:
            second = graph.op("Mul", second, graph.constant(alpha, dtype))
        return graph.op(kind, first, second)

    return rule


def _reversed(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """`other - self * alpha`."""
    first, second = (operand(graph, value, dtype_of(node)) for value in _pair(given))
    if given.get("alpha", 1) != 1:
        first = graph.op("Mul", first, graph.constant(given["alpha"], dtype_of(node)))
    return graph.op("Sub", second, first)


def _comparison(kind: str, is_negated: bool = False) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        pair = _pair(given)
        dtype = promoted(*pair)
        dtype = torch.int32 if dtype == torch.bool and kind != "Equal" else dtype
        result = graph.op(kind, *(operand(graph, value, dtype) for value in pair))
        return graph.op("Not", result) if is_negated else result

    return rule


def _logical(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        return graph.op(kind, *(operand(graph, value, torch.bool) for value in _pair(given)))

    return rule


def _bitwise(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        dtype = dtype_of(node)
        names = [operand(graph, value, dtype) for value in _pair(given)]
        if dtype == torch.bool:
            return graph.op(kind, *names)
        graph.need(18)
        return graph.op(f"Bitwise{kind}", *names)

    return rule


def _floor_quotient(graph: Graph, first: str, second: str, dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return graph.op("Floor", graph.op("Div", first, second))
    rest = graph.op("Mod", first, second)
    return graph.op("Div", graph.op("Sub", first, rest), second)


def _divided(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    first, second = (operand(graph, value, dtype) for value in _pair(given))
    mode = given.get("rounding_mode")
    if mode == "floor":
        return _floor_quotient(graph, first, second, dtype)
    result = graph.op("Div", first, second)
    if mode == "trunc" and dtype.is_floating_point:
        is_negative = graph.op("Less", result, graph.constant(0.0, dtype))
        ends = graph.op("Ceil", result), graph.op("Floor", result)
        return graph.op("Where", is_negative, *ends)
    return result


def _floor_divided(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    first, second = (operand(graph, value, dtype) for value in _pair(given))
    return _floor_quotient(graph, first, second, dtype)


def _remainder(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """The remainder with the sign of the divisor."""
    dtype = dtype_of(node)
    first, second = (operand(graph, value, dtype) for value in _pair(given))
    if not dtype.is_floating_point:
        return graph.op("Mod", first, second)
    rest = graph.op("Mod", first, second, fmod=1)
    signs = graph.op("Mul", graph.op("Sign", rest), graph.op("Sign", second))
    is_opposite = graph.op("Less", signs, graph.constant(0.0, dtype))
    return graph.op("Where", is_opposite, graph.op("Add", rest, second), rest)


def _fmod(graph: Graph, node: fx.Node, given: Arguments) -> str:
    names = [operand(graph, value, dtype_of(node)) for value in _pair(given)]
    return graph.op("Mod", *names, fmod=1)


def _power(graph: Graph, node: fx.Node, given: Arguments) -> str:
    base, exponent = _pair(given)
    dtype = dtype_of(node)
    first = operand(graph, base, dtype)
    if exponent == 2:
        return graph.op("Mul", first, first)
    if exponent == 0.5:
        return graph.op("Sqrt", first)
    return graph.op("Pow", first, operand(graph, exponent, dtype))


def _where(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    parts = [operand(graph, given[name], dtype) for name in ("self", "other")]
    return graph.op("Where", operand(graph, given["condition"], torch.bool), *parts)


def _masked_fill(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    mask = operand(graph, given["mask"], torch.bool)
    value = operand(graph, given["value"], dtype)
    return graph.op("Where", mask, value, operand(graph, given["self"], dtype))


def _added_product(kind: str) -> Rule:
    """`self + value * tensor1 kind tensor2`."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        dtype = dtype_of(node)
        names = ("self", "tensor1", "tensor2")
        total, first, second = (operand(graph, given[name], dtype) for name in names)
        product = graph.op(kind, first, second)
        if given["value"] != 1:
            product = graph.op("Mul", product, graph.constant(given["value"], dtype))
        return graph.op("Add", total, product)

    return rule


def _between(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    names = ("self", "end", "weight")
    start, end, weight = (operand(graph, given[name], dtype) for name in names)
    return graph.op("Add", start, graph.op("Mul", weight, graph.op("Sub", end, start)))


def _prelu(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, weight = graph.value(given["self"]), graph.value(given["weight"])
    shape = graph.shape_of(given["weight"])
    rank = len(graph.shape_of(node))
    if rank > 1 and shape != [1]:
        weight = graph.reshaped(weight, [shape[0], *[1] * (rank - 2)])
    return graph.op("PRelu", x, weight)


def _filled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    value = operand(graph, given["value"], dtype_of(node))
    return graph.op("Expand", value, graph.sizes(node.meta["val"].shape))


def _shifted(is_left: bool) -> Rule:
    """Shifts as products with powers of two: ONNX shifts unsigned integers only."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        first, second = _pair(given)
        dtype = dtype_of(node)
        if dtype.is_floating_point or not isinstance(second, int):
            raise RefusedError("shifts by a tensor have no form in ONNX")
        factor = graph.constant(1 << second, dtype)
        x = operand(graph, first, dtype)
        return graph.op("Mul", x, factor) if is_left else _floor_quotient(graph, x, factor, dtype)

    return rule


def _forms(name: str, rule: Rule, forms: tuple[str, ...] = FORMS) -> dict[str, Rule]:
    return {f"aten.{name}.{form}": rule for form in forms}


TABLE: dict[str, Rule] = {
    **_forms("add", _binary("Add")),
    **_forms("sub", _binary("Sub")),
    **_forms("mul", _binary("Mul")),
    **_forms("rsub", _reversed),
    **_forms("div", _divided, (*FORMS, "Tensor_mode", "Scalar_mode")),
    "aten.true_divide.Tensor": _divided,
    "aten.floor_divide.default": _floor_divided,
    "aten.floor_divide.Scalar": _floor_divided,
    "aten.maximum.default": _binary("Max"),
    "aten.minimum.default": _binary("Min"),
    "aten.max.other": _binary("Max"),
    "aten.min.other": _binary("Min"),
    **_forms("remainder", _remainder),
    **_forms("fmod", _fmod),
    **_forms("pow", _power, ("Scalar", "Tensor_Scalar", "Tensor_Tensor")),
    **_forms("eq", _comparison("Equal")),
    **_forms("ne", _comparison("Equal", True)),
    **_forms("lt", _comparison("Less")),
    **_forms("le", _comparison("LessOrEqual")),
    **_forms("gt", _comparison("Greater")),
    **_forms("ge", _comparison("GreaterOrEqual")),
    "aten.logical_and.default": _logical("And"),
    "aten.logical_or.default": _logical("Or"),
    "aten.logical_xor.default": _logical("Xor"),
    **_forms("bitwise_and", _bitwise("And")),
    **_forms("bitwise_or", _bitwise("Or")),
    **_forms("bitwise_xor", _bitwise("Xor")),
    **_forms("__and__", _bitwise("And")),
    **_forms("__or__", _bitwise("Or")),
    **_forms("__xor__", _bitwise("Xor")),
    "aten.__lshift__.Scalar": _shifted(True),
    "aten.__rshift__.Scalar": _shifted(False),
    "aten.bitwise_left_shift.Tensor_Scalar": _shifted(True),
    "aten.bitwise_right_shift.Tensor_Scalar": _shifted(False),
    **_forms("where", _where, ("self", "ScalarOther", "ScalarSelf", "Scalar")),
    **_forms("masked_fill", _masked_fill),
    "aten.addcmul.default": _added_product("Mul"),
    "aten.addcdiv.default": _added_product("Div"),
    **_forms("lerp", _between),
    "aten.prelu.default": _prelu,
    **_forms("fill", _filled),
}
