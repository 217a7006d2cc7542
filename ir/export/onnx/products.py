"""Matrix products. Weights are written as [in, out]: runtimes fuse products with those."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx import codes
from effc.ir.export.onnx.graph import Graph, array_of
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, rank_of
from effc.ir.export.onnx.shapes import swapped, transposed
from effc.ir.program import attribute


def columns_of(graph: Graph, weight: fx.Node) -> str:
    """The matrix [in, out] of a linear layer's weight [out, in], whatever it is made of."""
    dequantized = codes.columns(graph, weight)
    if dequantized is not None:
        return dequantized
    if weight.op == "get_attr" and all(is_weight_of(user, weight) for user in weight.users):
        tensor = attribute(graph.program.forward, weight.target)
        return graph.weight(str(weight.target), "columns", lambda: array_of(tensor.t()))
    rank = rank_of(weight)
    return transposed(graph, graph.value(weight), swapped(rank, rank - 2, rank - 1))


def is_weight_of(user: fx.Node, weight: fx.Node) -> bool:
    """Whether a node reads a value as the weight of a linear layer and in no other way."""
    is_linear = user.target is torch.ops.aten.linear.default
    return is_linear and user.args[1] is weight and user.args[0] is not weight


def _linear(graph: Graph, node: fx.Node, given: Arguments) -> str:
    integer = codes.integer_product(graph, node, given)
    if integer is None:
        integer = graph.op(
            "MatMul", graph.value(given["input"]), columns_of(graph, given["weight"])
        )
    bias = given["bias"]
    return integer if bias is None else graph.op("Add", integer, graph.value(bias))


def _product(graph: Graph, node: fx.Node, given: Arguments) -> str:
    first, second = (graph.value(value) for value in list(given.values())[:2])
    return graph.op("MatMul", first, second)


def _added(graph: Graph, node: fx.Node, given: Arguments) -> str:
    names = [name for name in ("mat1", "mat2", "batch1", "batch2") if name in given]
    product = graph.op("MatMul", *(graph.value(given[name]) for name in names))
    return graph.op(
        "Add",
        scaled(graph, graph.value(given["self"]), given["beta"], dtype_of(node)),
        scaled(graph, product, given["alpha"], dtype_of(node)),
    )


def scaled(graph: Graph, value: str, factor: Any, dtype: torch.dtype) -> str:
    """A value times a number."""
    return value if factor == 1 else graph.op("Mul", value, graph.constant(factor, dtype))


TABLE: dict[str, Rule] = {
    "aten.linear.default": _linear,
    "aten.mm.default": _product,
    "aten.bmm.default": _product,
    "aten.matmul.default": _product,
    "aten.addmm.default": _added,
    "aten.baddbmm.default": _added,
}
