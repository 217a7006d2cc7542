"""Operators that count or collect what occurs."""

import functools
from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, is_known


def _unique(call: Call, x: Tensor) -> Any:
    if not is_known(x):
        raise call.refuse("the size of its result depends on values computed when the model runs")
    axis, is_sorted = call.get("axis"), bool(call.get("sorted", 1))
    rows = x.reshape(-1, 1) if axis is None else x.movedim(axis, 0).flatten(1)
    _, inverse, counts = torch.unique(rows, True, True, True, 0)
    places = torch.arange(len(rows))
    first = torch.full([len(counts)], len(rows)).scatter_reduce(0, inverse, places, "amin")
    order = torch.arange(len(counts)) if is_sorted else torch.argsort(first)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    first, counts, inverse = first[order], counts[order], rank[inverse]
    values = x.reshape(-1)[first] if axis is None else torch.index_select(x, axis, first)
    return values, first, inverse, counts


def _tf_idf(call: Call, x: Tensor) -> Tensor:
    """How often each known sequence of tokens occurs in each row, with gaps allowed."""
    pool = call.get("pool_int64s")
    if pool is None:
        raise call.refuse("sequences of texts are not supported")
    starts, places = call.get("ngram_counts"), call.get("ngram_indexes")
    weights = call.get("weights", [1.0] * len(places))
    shortest, longest = call.get("min_gram_length"), call.get("max_gram_length")
    rows = x.reshape([1, -1]) if x.dim() == 1 else x
    length = rows.shape[1]
    columns: list[Any] = [None] * (max(places) + 1)
    grams = _grams(pool, starts)
    for gram, place, weight in zip(grams, places, weights, strict=True):
        if not shortest <= len(gram) <= longest:
            continue
        count = _occurrences(rows, gram, length, call.get("max_skip_count", 0))
        columns[place] = _weighted(call.get("mode"), count, weight)
    zero = torch.zeros([rows.shape[0]], dtype=torch.float32)
    result = torch.stack([zero if column is None else column for column in columns], 1)
    return result.reshape([-1]) if x.dim() == 1 else result


def _grams(pool: list[int], starts: list[int]) -> list[list[int]]:
    ends = [*starts[1:], len(pool)]
    found = []
    for size, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        found += [pool[at : at + size] for at in range(start, end, size)]
    return found


def _occurrences(rows: Tensor, gram: list[int], length: int, skips: int) -> Tensor:
    gaps = range(1) if len(gram) == 1 else range(skips + 1)
    total: Any = torch.zeros([rows.shape[0]], dtype=torch.float32)
    for gap in gaps:
        step = gap + 1
        count = length - (len(gram) - 1) * step
        if count <= 0:
            continue
        tests = [
            torch.ops.aten.slice.Tensor(rows, 1, i * step, i * step + count) == token
            for i, token in enumerate(gram)
        ]
        total = total + functools.reduce(torch.logical_and, tests).to(torch.float32).sum(1)
    return total


def _weighted(mode: str, count: Tensor, weight: float) -> Tensor:
    if mode == "TF":
        return count
    occurs = (count > 0).to(torch.float32) if mode == "IDF" else count
    return occurs * weight


TABLE: dict[str, Any] = {"Unique": _unique, "TfIdfVectorizer": _tf_idf}
