"""The canonical form of a call: every positional argument written out, dimensions counted from 0.

Keyword arguments stay only where they differ from their default and say something about the
result, so that `node.args[3]` is the stride of every convolution there is.
"""

from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import Kind, kind_of
from effc.passes.clean.matching import NodeRule, aten, is_call, is_tensor, rank, size, sizes

DIMENSIONS = ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim")
PLACEMENT = ("device", "pin_memory", "layout", "memory_format", "non_blocking")
GROWS = (aten.unsqueeze.default, aten.stack.default)
WINDOWS = (
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.max_pool2d_with_indices.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
)
LAST = torch.iinfo(torch.int64).max


def canonical_call(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments a call has in canonical form."""
    target: Any = node.target
    schema = target._schema
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for position, entry in enumerate(schema.arguments):
        value = _given(node, position, entry)
        if entry.kwarg_only:
            if not _is_implied(entry.name, value) and not _is_default(entry, value):
                kwargs[entry.name] = value
            continue
        args.append(_positive(node, entry.name, _full_length(entry, value)))
    if node.target in WINDOWS and args[2] == []:
        args[2] = args[1]
    if kind_of(node) is Kind.CREATE and "dtype" in {entry.name for entry in schema.arguments}:
        kwargs["dtype"] = node.meta["val"].dtype
    return _bounded(node, tuple(args)), kwargs


def _given(node: fx.Node, position: int, entry: Any) -> Any:
    if position < len(node.args) and not entry.kwarg_only:
        return node.args[position]
    return node.kwargs.get(entry.name, entry.default_value)


def _is_implied(name: str, value: Any) -> bool:
    """Whether a keyword says only where a result lies in memory, on the host."""
    if name == "device" and value is not None:
        return torch.device(value).type == "cpu"
    return name in PLACEMENT


def _is_default(entry: Any, value: Any) -> bool:
    return (
        bool(entry.has_default_value())
        and not isinstance(value, fx.Node)
        and (value == entry.default_value)
    )


def _full_length(entry: Any, value: Any) -> Any:
    """One number for all dimensions becomes one number for each."""
    if entry.N is None or isinstance(value, fx.Node):
        return list(value) if isinstance(value, tuple) else value
    numbers = [value] if isinstance(value, int) else list(value or [])
    is_spatial = entry.N > 1 and len(numbers) == 1
    return numbers * entry.N if is_spatial else (None if value is None else numbers)


def _positive(node: fx.Node, name: str, value: Any) -> Any:
    """Dimensions counted from the end become dimensions counted from 0."""
    if name not in DIMENSIONS or value is None or not node.args:
        return value
    first: Any = node.args[0]
    first = first[0] if isinstance(first, list | tuple) else first
    if not is_tensor(first):
        return value
    count = max(rank(first) + (node.target in GROWS), 1)
    if isinstance(value, list):
        return [entry % count for entry in value]
    return value % count if isinstance(value, int) else value


def _bounded(node: fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positions counted from the end of a dimension of known size, counted from its start."""
    if not is_call(node, aten.select.int, aten.slice.Tensor) or not isinstance(args[1], int):
        return args
    extent = sizes(args[0])[args[1]]
    if is_call(node, aten.select.int):
        index = args[2]
        is_known = isinstance(index, int) and isinstance(extent, int)
        return (*args[:2], index % extent) if is_known else args
    start, end = args[2] or 0, LAST if args[3] is None else args[3]
    if isinstance(extent, int):
        start, end = (_clamped(bound, extent) for bound in (start, end))
    return (args[0], args[1], start, end, args[4])


def _clamped(bound: Any, extent: int) -> Any:
    if not isinstance(bound, int):
        return bound
    return min(max(bound + extent if bound < 0 else bound, 0), extent)


def _is_not_canonical(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target is aten.sym_size.int or kind_of(node) is None:
        return False
    return _spelled(*canonical_call(node)) != _spelled(node.args, node.kwargs)


def _spelled(args: Any, kwargs: Any) -> str:
    """Arguments as text: `1 == 1.0` and `[1] != (1,)` must not count."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        if isinstance(value, torch.SymInt):
            return size(value)
        return value

    return repr((plain(args), sorted((key, plain(value)) for key, value in kwargs.items())))


def _canonicalize(node: fx.Node, editor: Editor) -> None:
    args, kwargs = canonical_call(node)
    target: Any = node.target
    editor.replace(node, editor.call(node, target, *args, before=node, **kwargs))


RULES = (NodeRule("canonical-arguments", _is_not_canonical, _canonicalize),)
