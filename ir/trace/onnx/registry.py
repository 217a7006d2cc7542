"""Which function computes which operator: one table per topic, keyed by domain and operator."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from effc.ir.trace.onnx.call import Call

MICROSOFT = "com.microsoft"
PREVIEW = "ai.onnx.preview"
TOPICS: dict[str, tuple[str, ...]] = {
    "": (
        "elementwise", "activations", "logic", "casts", "shape", "indexing", "scattering", "reduce",
        "matrix", "convolution", "pooling", "normalization", "resize", "sampling", "quantization",
        "recurrent", "control", "sequences", "attention", "linear_attention", "signal", "losses",
        "counting", "detection",
    ),
    MICROSOFT: ("microsoft", "microsoft_attention", "microsoft_quantization"),
    PREVIEW: ("preview",),
}  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """How an operator is computed.

    Attributes:
        function: Takes the call and its inputs, None for missing ones, and returns a result or a
            tuple of results.
        sizes: Positions of inputs that may be symbolic sizes instead of tensors.
        is_folded: Whether it is computed at once where all it reads is known in advance.
        since: First version of the operator set it holds for.
        until: Last version.
    """

    function: Callable[..., Any]
    sizes: tuple[int, ...] = ()
    is_folded: bool = True
    since: int = 1
    until: int = 1 << 31


Entry = Operator | Callable[..., Any] | tuple[Operator, ...]


@cache
def table() -> dict[tuple[str, str], tuple[Operator, ...]]:
    """Every operator there is a function for."""
    merged: dict[tuple[str, str], tuple[Operator, ...]] = {}
    for domain, topics in TOPICS.items():
        for topic in topics:
            module = importlib.import_module(f"effc.ir.trace.onnx.{topic}")
            for name, entry in module.TABLE.items():
                if (domain, name) in merged:
                    raise ValueError(f"operator with two entries: {domain}.{name}")
                merged[domain, name] = _operators(entry)
    return merged


def _operators(entry: Entry) -> tuple[Operator, ...]:
    if isinstance(entry, tuple):
        return entry
    return (entry if isinstance(entry, Operator) else Operator(entry),)


def find(domain: str, op: str, version: int) -> Operator | None:
    """The operator of a version of its domain, or None where there is none."""
    for operator in table().get((domain, op), ()):
        if operator.since <= version <= operator.until:
            return operator
    return None


def look_up(call: Call) -> Operator:
    """The operator of a call.

    Raises:
        UnsupportedError: If there is none.
    """
    found = find(call.domain, call.op, call.version)
    if found is None:
        raise call.refuse("there is no such operator in effc")
    return found
