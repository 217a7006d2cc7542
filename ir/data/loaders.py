"""Data from Python: an iterable, or `package.module:loader`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from effc.ir.data.batches import Sample
from effc.ir.data.files import LABELS
from effc.ir.errors import DataError, EffcError
from effc.ir.program import Signature
from effc.ir.trace.factory import call, current_folder_importable, described, look_up


def loader_source(reference: str, signature: Signature) -> Callable[[], Iterator[Sample]]:
    """Samples from `package.module:loader`, an iterable or a callable that returns one.

    A callable is called anew for every pass over the data.

    Raises:
        UsageError: If it cannot be imported.
        DataError: If it is neither.
    """
    found = look_up(reference)
    if isinstance(found, Iterable) and not isinstance(found, type):
        return iterable_source(found, signature, reference)
    if not callable(found):
        raise DataError(f"{reference} is a {type(found).__name__}, not an iterable or a function")

    def samples() -> Iterator[Sample]:
        return iterable_source(call(found, reference), signature, reference)()

    return samples


def iterable_source(
    values: Any, signature: Signature, where: str = "the data"
) -> Callable[[], Iterator[Sample]]:
    """Samples from an iterable of inputs or `(inputs, labels)`.

    Inputs are a dict by name, a tuple in order, or a tensor or array where there is one input. An
    iterator is read into memory, since it gives its elements only once.

    Raises:
        DataError: If it is not iterable.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise DataError(f"{where} is a {type(values).__name__}, not an iterable of batches")
    again = list(_guarded(values, where)) if isinstance(values, Iterator) else values

    def samples() -> Iterator[Sample]:
        for value in _guarded(again, where):
            yield sample_of(value, signature, where)

    return samples


def sample_of(value: Any, signature: Signature, where: str) -> Sample:
    """Read one element of an iterable.

    Raises:
        DataError: If it has none of the known forms.
    """
    names = [spec.name for spec in signature.inputs]
    if isinstance(value, tuple | list) and len(value) == 2:
        first, second = value
        if isinstance(first, Mapping | tuple | list) or len(names) == 1:
            return _with_labels(first, second, names, where)
    return _with_labels(value, None, names, where)


def _with_labels(inputs: Any, labels: Any, names: list[str], where: str) -> Sample:
    if isinstance(inputs, Mapping):
        if labels is None:
            labels = next((inputs[n] for n in LABELS if n in inputs and n not in names), None)
        return Sample(inputs, labels, where)
    values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    is_tensor = all(isinstance(v, torch.Tensor | np.ndarray | np.generic) for v in values)
    if len(values) != len(names) or not is_tensor:
        raise DataError(
            f"{where} gives a {_form(inputs)}; expected a dict or a tuple of the inputs "
            f"{', '.join(names)}, or (inputs, labels)"
        )
    return Sample(dict(zip(names, values, strict=True)), labels, where)


def _form(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)} ({', '.join(map(_form, value[:4]))})"
    return type(value).__name__


def _guarded(values: Iterable[Any], where: str) -> Iterator[Any]:
    """Iterate over what a user wrote; what it raises becomes one line."""
    iterator = None
    while True:
        try:
            with current_folder_importable():
                iterator = iter(values) if iterator is None else iterator
                value = next(iterator)
        except StopIteration:
            return
        except EffcError:
            raise
        except Exception as error:  # a user's loader raises whatever it raises
            raise DataError(f"{where} failed: {described(error)}") from error
        yield value
