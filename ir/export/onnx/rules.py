"""Which function writes which operator in ONNX: one table per topic, keyed by operator."""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph
from effc.ir.opspec import op_name

Arguments: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Graph, fx.Node, Arguments], Any]
TOPICS = (
    "elementwise", "arithmetic", "shapes", "gathers", "creation", "reductions", "pooling",
    "normalization", "products", "convolution", "attention", "quantization",
)  # fmt: skip


@cache
def table() -> dict[str, Rule]:
    """Every operator there is a function for."""
    merged: dict[str, Rule] = {}
    for topic in TOPICS:
        found = importlib.import_module(f"effc.ir.export.onnx.{topic}").TABLE
        if repeated := merged.keys() & found.keys():
            raise ValueError(f"operators with two functions: {sorted(repeated)}")
        merged |= found
    return merged


def rule_of(node: fx.Node) -> Rule | None:
    """The function of a node's operator, or None where there is none."""
    return table().get(op_name(node))


def bound(node: fx.Node) -> Arguments:
    """A call's arguments by name, defaults filled in."""
    target: Any = node.target
    found: Arguments = {}
    for position, entry in enumerate(target._schema.arguments):
        is_given = position < len(node.args) and not entry.kwarg_only
        value = node.args[position] if is_given else node.kwargs.get(entry.name)
        if value is None and not is_given and entry.name not in node.kwargs:
            value = entry.default_value
        found[entry.name] = value
    return found


def dtype_of(value: Any) -> torch.dtype:
    """Element type of a node's tensor."""
    found: torch.dtype = value.meta["val"].dtype
    return found


def rank_of(value: Any) -> int:
    """Number of dimensions of a node's tensor."""
    return int(value.meta["val"].dim())


def is_tensor(value: Any) -> bool:
    """Whether an argument is a node that computes a tensor."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def operand(graph: Graph, value: Any, dtype: torch.dtype) -> str:
    """An argument as a value of some element type: a tensor, a size or a number."""
    if is_tensor(value):
        found = graph.value(value)
        return found if dtype_of(value) == dtype else graph.cast(found, dtype)
    if isinstance(value, fx.Node | torch.SymInt):
        found = graph.size(value)
        return found if dtype == torch.int64 else graph.cast(found, dtype)
    return graph.constant(value, dtype)


def promoted(*values: Any) -> torch.dtype:
    """The element type torch computes an operator of these arguments in."""
    parts = [value.meta["val"] if is_tensor(value) else _number(value) for value in values]
    return torch.result_type(parts[0], parts[1]) if len(parts) == 2 else parts[0].dtype


def _number(value: Any) -> Any:
    return 1 if isinstance(value, fx.Node | torch.SymInt) else value
