"""Binding what a user gives (texts, tensors, dicts) to the parameters of a module's `forward`."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from effc.ir.errors import UsageError
from effc.ir.program import TensorSpec, dtype_name
from effc.ir.trace.inputs import WantedInputs, dynamic_dims, example_sizes, example_tensors

Arguments = inspect.BoundArguments


def bind(module: torch.nn.Module, wanted: WantedInputs, examples: Any = None) -> Arguments:
    """Arguments of `forward`, no tensor twice, with sizes that torch.export can make symbolic.

    Args:
        module: Whose `forward` is called.
        wanted: Names, dtypes and shapes; may be empty where there are examples.
        examples: A tensor, a tuple of positional arguments or a dict of keyword arguments; made
            from `wanted` if None.

    Raises:
        UsageError: If a name is not a parameter, a parameter has no value, or an example has
            another dtype or shape than `wanted` says.
    """
    signature = inspect.signature(module.forward)
    name = type(module).__name__
    takes = f"it takes {', '.join(signature.parameters) or 'no inputs'}"
    _check_names(name, takes, signature, wanted)
    if examples is None and not wanted.specs and signature.parameters:
        raise UsageError(
            f'the inputs of {name} are not known; give each with --input "name:dtype[dims]" '
            f"or example inputs; {takes}"
        )
    arguments, keywords = _split(example_tensors(wanted) if examples is None else examples)
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise UsageError(f"the inputs do not fit {name}: {error}; {takes}") from error
    _fit(bound, wanted)
    return _without_repeats(bound)


def dynamic_shapes(bound: Arguments, wanted: WantedInputs) -> dict[str, Any] | None:
    """What torch.export calls `dynamic_shapes`: per parameter, a dimension per position."""
    if not wanted.symbols:
        return None
    dims = dynamic_dims(wanted)
    return {name: dims.get(name) or _static(value) for name, value in bound.arguments.items()}


def _static(value: Any) -> Any:
    """No symbolic dimension; one entry per element of `*args`, which torch.export insists on."""
    return tuple(None for _ in value) if isinstance(value, tuple) else None


def _check_names(name: str, takes: str, signature: inspect.Signature, wanted: WantedInputs) -> None:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = {name for name, found in signature.parameters.items() if found.kind not in variadic}
    unknown = [spec.name for spec in wanted.specs if spec.name not in known]
    if unknown:
        raise UsageError(f"--input names {', '.join(unknown)}, which {name} lacks; {takes}")


def _split(examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(examples, Mapping):
        return (), dict(examples)
    if isinstance(examples, torch.Tensor):
        return (examples,), {}
    if isinstance(examples, tuple | list):
        return tuple(examples), {}
    raise UsageError(
        "example inputs must be a tensor, a tuple of arguments or a dict of keyword arguments, "
        f"not {type(examples).__name__}"
    )


def _without_repeats(bound: Arguments) -> Arguments:
    """Copy tensors that occur more than once: torch.export would take them for one input."""
    seen: set[int] = set()

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        result = leaf.clone() if id(leaf) in seen else leaf
        seen.add(id(leaf))
        return result

    for name, value in bound.arguments.items():
        bound.arguments[name] = pytree.tree_map(copy, value)
    return bound


def _fit(bound: Arguments, wanted: WantedInputs) -> None:
    """Check examples against `wanted` and enlarge symbolic dimensions of size 1."""
    for spec in wanted.specs:
        _check_example(spec, bound.arguments.get(spec.name))
    sizes = _symbol_sizes(bound, wanted)
    for spec in wanted.specs:
        value = bound.arguments[spec.name]
        for position, size in enumerate(spec.shape):
            if not isinstance(size, int) and sizes[size.name] != value.shape[position]:
                index = torch.arange(sizes[size.name]) % value.shape[position]
                value = value.index_select(position, index.to(value.device))
        bound.arguments[spec.name] = value


def _symbol_sizes(bound: Arguments, wanted: WantedInputs) -> dict[str, int]:
    """The examples' size of each symbol where torch.export takes it as symbolic, else another."""
    found: dict[str, set[int]] = {name: set() for name in wanted.symbols}
    for spec in wanted.specs:
        for size, actual in zip(spec.shape, bound.arguments[spec.name].shape, strict=True):
            if not isinstance(size, int):
                found[size.name].add(actual)
    sizes = example_sizes(wanted.symbols)
    for name, symbol in wanted.symbols.items():
        if len(found[name]) > 1:
            raise UsageError(f"the example inputs have sizes {sorted(found[name])} for {name}")
        for size in found[name]:
            if size > 1 and symbol.minimum <= size <= symbol.maximum:
                sizes[name] = size
    return sizes


def _check_example(spec: TensorSpec, value: Any) -> None:
    if not isinstance(value, torch.Tensor):
        raise UsageError(f"the example inputs hold no tensor {spec.name}, expected {spec}")
    if value.dtype != spec.dtype:
        wrong, right = dtype_name(value.dtype), dtype_name(spec.dtype)
        raise UsageError(f"the example input {spec.name} has dtype {wrong}, expected {right}")
    fits = len(spec.shape) == value.dim() and all(
        size == found if isinstance(size, int) else found > 0
        for size, found in zip(spec.shape, value.shape, strict=False)
    )
    if not fits:
        raise UsageError(f"the example input {spec.name} has shape {[*value.shape]}, not {spec}")
