"""Softmax attention, spelled out (its own operator came with opset 23), and linear attention."""

import math
from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.gathers import repeated
from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.normalization import without_nan
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, rank_of
from effc.ir.export.onnx.shapes import swapped, transposed, unsqueezed
from effc.ir.program import attribute


def _attention(graph: Graph, node: fx.Node, given: Arguments) -> str:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    dtype, mask = dtype_of(node), given["attn_mask"]
    names = [graph.value(part) for part in (query, key, value)]
    if given["enable_gqa"]:
        names[1:] = [_per_query(graph, query, part) for part in (key, value)]
    factor = given["scale"]
    factor = 1 / math.sqrt(int(graph.shape_of(query)[-1])) if factor is None else factor
    scores = _scores(graph, query, key, names, factor, dtype)
    if given["is_causal"]:
        hidden = graph.op("Not", _sees(graph, query, key))
        scores = graph.op("Where", hidden, graph.constant(-math.inf, dtype), scores)
    if mask is not None:
        scores = _masked(graph, scores, mask, dtype)
    shares = graph.op("Softmax", scores, axis=-1)
    if mask is not None and not _leaves_something(graph, mask):
        shares = without_nan(graph, shares, dtype)
    return graph.op("MatMul", shares, names[2])


def _scores(
    graph: Graph, query: fx.Node, key: fx.Node, names: list[str], factor: float, dtype: torch.dtype
) -> str:
    rank = rank_of(key)
    columns = transposed(graph, names[1], swapped(rank, rank - 2, rank - 1))
    product = graph.op("MatMul", names[0], columns)
    return graph.op("Mul", product, graph.constant(factor, dtype))


def _per_query(graph: Graph, query: fx.Node, part: fx.Node) -> str:
    """Heads of keys or values repeated for the queries that share them."""
    heads, shape = graph.shape_of(query)[-3], graph.shape_of(part)
    times = int(heads) // int(shape[-3])
    if times == 1:
        return graph.value(part)
    shape[-3] = heads
    return repeated(graph, graph.value(part), shape, len(shape) - 3, times)


def _sees(graph: Graph, query: fx.Node, key: fx.Node) -> str:
    """Which keys a query sees: those up to its own number, [queries, keys]."""
    rows, columns = graph.shape_of(query)[-2], graph.shape_of(key)[-2]
    if isinstance(rows, int) and isinstance(columns, int):
        return graph.constant(torch.ones(rows, columns, dtype=torch.bool).tril())
    bounds = [graph.constant(0, torch.int64), graph.constant(1, torch.int64)]
    numbers = [
        graph.op("Range", bounds[0], graph.size(size), bounds[1]) for size in (rows, columns)
    ]
    return graph.op("GreaterOrEqual", unsqueezed(graph, numbers[0], [1]), numbers[1])


def _masked(graph: Graph, scores: str, mask: fx.Node, dtype: torch.dtype) -> str:
    if dtype_of(mask) != torch.bool:
        return graph.op("Add", scores, graph.value(mask))
    return graph.op("Where", graph.value(mask), scores, graph.constant(-math.inf, dtype))


def _leaves_something(graph: Graph, mask: fx.Node) -> bool:
    """Whether a mask is known to leave every query a key."""
    if mask.op != "get_attr":
        return False
    tensor: Any = attribute(graph.program.forward, mask.target)
    open_to = tensor if tensor.dtype == torch.bool else tensor > -math.inf
    return bool(open_to.any(-1).all())


RULES = {
    (False, False): "linear",
    (True, False): "gated",
    (False, True): "delta",
    (True, True): "gated_delta",
}


def _linear_attention(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, str]:
    """One operator, which takes heads side by side: [batch, steps, heads * size]."""
    graph.need(27)
    query, decay, beta = given["query"], given["decay"], given["beta"]
    if dtype_of(query) == torch.float64:
        raise RefusedError("linear attention in float64 has no form in ONNX")
    if given["scale"] == 0:
        raise RefusedError("a scale of 0 stands for another one in ONNX")
    packed = [
        "" if part is None else _packed(graph, part)
        for part in (query, given["key"], given["value"], decay, beta)
    ]
    past = "" if given["past"] is None else graph.value(given["past"])
    heads, shared = (_heads(graph, given[name]) for name in ("query", "key"))
    rule = RULES[decay is not None, beta is not None]
    inputs = [*packed[:3], past, *packed[3:]]
    while not inputs[-1]:
        inputs.pop()
    result, state = graph.several(
        "LinearAttention", inputs, 2, q_num_heads=heads, kv_num_heads=shared, update_rule=rule,
        scale=given["scale"],
    )  # fmt: skip
    batch, _, steps, depth = (graph.known_size(size) for size in node.meta["val"][0].shape)
    apart = graph.reshaped(result, [batch, steps, heads, depth])
    return transposed(graph, apart, [0, 2, 1, 3]), state


def _heads(graph: Graph, node: fx.Node) -> int:
    found = graph.shape_of(node)[1]
    if not isinstance(found, int):
        raise RefusedError("a symbolic number of heads has no form in ONNX")
    return found


def _packed(graph: Graph, node: fx.Node) -> str:
    batch, heads, steps, size = graph.shape_of(node)
    swapped_heads = transposed(graph, graph.value(node), [0, 2, 1, 3])
    return graph.reshaped(swapped_heads, [batch, steps, heads * size])


TABLE: dict[str, Rule] = {
    "aten.scaled_dot_product_attention.default": _attention,
    "effc.linear_attention.default": _linear_attention,
}
