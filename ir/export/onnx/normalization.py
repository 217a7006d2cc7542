"""Norms and softmax."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand, rank_of


def _row(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x = given["self"]
        value = operand(graph, x, dtype_of(node))
        return graph.op(kind, value, axis=given["dim"] % max(rank_of(x), 1))

    return rule


def _safe_softmax(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """A row of which nothing counts gives zeros."""
    return without_nan(graph, _row("Softmax")(graph, node, given), dtype_of(node))


def without_nan(graph: Graph, value: str, dtype: torch.dtype) -> str:
    """Zeros where a value is not a number."""
    return graph.op("Where", graph.op("IsNaN", value), graph.constant(0.0, dtype), value)


def _layer(graph: Graph, node: fx.Node, given: Arguments) -> Any:
    """LayerNormalization exists from opset 17 on and wants a scale."""
    graph.need(17)
    shape = [int(size) for size in given["normalized_shape"]]
    x = given["input"]
    result = node.meta["val"]
    dtype = (result[0] if isinstance(result, tuple | list) else result).dtype
    weight, bias = given["weight"], given["bias"]
    scale = graph.constant(torch.ones(shape, dtype=dtype)) if weight is None else (
        graph.value(weight)
    )  # fmt: skip
    parts = [scale] if bias is None else [scale, graph.value(bias)]
    found = graph.op(
        "LayerNormalization", graph.value(x), *parts, axis=-len(shape), epsilon=given["eps"]
    )
    if not isinstance(result, tuple | list):
        return found
    if any(user.args[1] != 0 for user in node.users):
        raise RefusedError("mean and deviation as results have no form here")
    return (found,)


def _root_mean_square(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Spelled out: the operator of its own came with opset 23."""
    x, dtype = given["input"], dtype_of(node)
    value, shape = graph.value(x), given["normalized_shape"]
    epsilon = given["eps"]
    epsilon = torch.finfo(dtype).eps if epsilon is None else epsilon
    axes = list(range(rank_of(x) - len(shape), rank_of(x)))
    mean = graph.reduced(
        "ReduceMean", graph.op("Pow", value, graph.constant(2.0, dtype)), axes, True
    )
    root = graph.op("Sqrt", graph.op("Add", mean, graph.constant(epsilon, dtype)))
    found = graph.op("Div", value, root)
    weight = given["weight"]
    return found if weight is None else graph.op("Mul", found, graph.value(weight))


def _group(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Groups become the channels of an instance norm."""
    x = given["input"]
    return _grouped(graph, x, given["num_groups"], given, given["eps"])


def _grouped(graph: Graph, x: fx.Node, groups: int, given: Arguments, epsilon: float) -> str:
    shape, dtype = graph.shape_of(x), dtype_of(x)
    ones = graph.constant(torch.ones(groups, dtype=dtype))
    zeros = graph.constant(torch.zeros(groups, dtype=dtype))
    value = graph.op("Reshape", graph.value(x), graph.ints([0, groups, -1]))
    found = graph.op("InstanceNormalization", value, ones, zeros, epsilon=epsilon)
    found = graph.op("Reshape", found, graph.op("Shape", graph.value(x)))
    for kind, name in (("Mul", "weight"), ("Add", "bias")):
        if given[name] is not None:
            part = graph.value(given[name])
            wide = graph.reshaped(part, [shape[1], *[1] * (len(shape) - 2)])
            found = graph.op(kind, found, wide)
    return found


def _instance(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["input"]
    if not given["use_input_stats"]:
        raise RefusedError("an instance norm with running statistics has no form here")
    return _grouped(graph, x, int(graph.shape_of(x)[1]), given, given["eps"])


def _batch(graph: Graph, node: fx.Node, given: Arguments) -> Any:
    x = given["input"]
    channels, dtype = int(graph.shape_of(x)[1]), dtype_of(x)
    if given.get("training"):
        raise RefusedError("a batch norm while training has no form here")
    parts = []
    for name, value in (
        ("weight", 1.0),
        ("bias", 0.0),
        ("running_mean", 0.0),
        ("running_var", 1.0),
    ):
        missing = torch.full([channels], value, dtype=dtype)
        parts.append(graph.constant(missing) if given[name] is None else graph.value(given[name]))
    found = graph.op("BatchNormalization", graph.value(x), *parts, epsilon=given["eps"])
    return (found,) if isinstance(node.meta["val"], tuple | list) else found


TABLE: dict[str, Rule] = {
    "aten.softmax.int": _row("Softmax"),
    "aten._softmax.default": _row("Softmax"),
    "aten._safe_softmax.default": _safe_softmax,
    "aten.log_softmax.int": _row("LogSoftmax"),
    "aten._log_softmax.default": _row("LogSoftmax"),
    "aten.layer_norm.default": _layer,
    "aten.native_layer_norm.default": _layer,
    "aten.rms_norm.default": _root_mean_square,
    "aten.group_norm.default": _group,
    "aten.instance_norm.default": _instance,
    "aten.batch_norm.default": _batch,
    "aten._native_batch_norm_legit_no_training.default": _batch,
}
