"""Tensors made from nothing but sizes and numbers."""

import math
from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand


def filled(graph: Graph, value: Any, dtype: torch.dtype, shape: Any) -> str:
    """One number everywhere."""
    number = operand(graph, value, dtype)
    return graph.op("Expand", number, graph.sizes(shape)) if len(shape) else number


def _full(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return filled(graph, given["fill_value"], dtype_of(node), node.meta["val"].shape)


def _all(value: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        return filled(graph, value, dtype_of(node), node.meta["val"].shape)

    return rule


def _scalar(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return operand(graph, given["s"], dtype_of(node))


def _range(graph: Graph, node: fx.Node, given: Arguments) -> str:
    dtype = dtype_of(node)
    start, end, step = given.get("start", 0), given["end"], given.get("step", 1)
    known = [graph.known_size(bound) for bound in (start, end, step)]
    if all(isinstance(bound, int | float) for bound in known):
        return graph.constant(torch.arange(*known, dtype=dtype))
    if dtype.is_floating_point:
        raise RefusedError("a range of floats of a symbolic size has no form here")
    found = graph.op("Range", *(operand(graph, bound, torch.int64) for bound in (start, end, step)))
    return found if dtype == torch.int64 else graph.cast(found, dtype)


def _eye(graph: Graph, node: fx.Node, given: Arguments) -> str:
    sizes = [graph.known_size(size) for size in node.meta["val"].shape]
    if not all(isinstance(size, int) for size in sizes):
        raise RefusedError("an identity of a symbolic size has no form here")
    return graph.constant(torch.eye(*sizes, dtype=dtype_of(node)))


def _spaced(graph: Graph, node: fx.Node, given: Arguments) -> str:
    start, end, steps = given["start"], given["end"], given["steps"]
    if not isinstance(steps, int) or not math.isfinite(start) or not math.isfinite(end):
        raise RefusedError("numbers at a symbolic distance have no form here")
    return graph.constant(torch.linspace(start, end, steps, dtype=dtype_of(node)))


NAMED = ("empty.memory_format", "zeros.default", "zeros_like.default", "new_zeros.default",
         "new_empty.default", "empty_like.default")  # fmt: skip
TABLE: dict[str, Rule] = {
    **{f"aten.{name}": _all(0) for name in NAMED},
    **{f"aten.{name}.default": _all(1) for name in ("ones", "ones_like", "new_ones")},
    **{f"aten.{name}.default": _full for name in ("full", "full_like", "new_full")},
    "aten.scalar_tensor.default": _scalar,
    **{f"aten.arange.{form}": _range for form in ("default", "start", "start_step")},
    "aten.eye.default": _eye,
    "aten.eye.m": _eye,
    "aten.linspace.default": _spaced,
}
