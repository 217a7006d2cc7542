"""Data as batches that fit a model's signature, iterable again and again."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from effc.ir.data.arrays import as_input
from effc.ir.errors import DataError, InputError
from effc.ir.program import Signature, TensorSpec, bind_sizes
from effc.ir.symbols import Size, Symbol

Batch = tuple[dict[str, np.ndarray], Any]
USUAL_BATCH = 32
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Sample:
    """What a source gives at once: one batch or many rows.

    Attributes:
        inputs: A value per input name; other names are ignored.
        labels: Labels with the same leading dimension, or anything, or None.
        where: The file or loader, for messages.
    """

    inputs: Mapping[str, Any]
    labels: Any
    where: str


class Data:
    """Batches `(inputs, labels)` for one model, in the order of the source.

    Args:
        name: What the user calls the data.
        source: Gives the samples from the start at every call.
        signature: The inputs the batches must fit.
        symbols: Ranges of the symbolic dimensions.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[], Iterable[Sample]],
        signature: Signature,
        symbols: dict[str, Symbol],
    ) -> None:
        self.name = name
        self._source = source
        self._signature = signature
        self._symbols = symbols
        self._fingerprint = ""

    def __iter__(self) -> Iterator[Batch]:
        """Yield `(inputs, labels)`: an array per input name, and the labels or None.

        Raises:
            DataError: If there is no data, or some does not fit, saying where and which.
        """
        is_empty = True
        for sample in self._source():
            for batch in self._fitted(sample):
                is_empty = False
                yield batch
        if is_empty:
            raise DataError(f"{self.name} holds no data")

    def fingerprint(self) -> str:
        """Hex digest of all inputs and labels; equal for equal data however it is stored."""
        if not self._fingerprint:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for inputs, labels in self:
                for name, array in inputs.items():
                    digest.update(f"{name} {array.dtype} {array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).data)
                digest.update(_label_bytes(labels))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _fitted(self, sample: Sample) -> Iterator[Batch]:
        specs = self._signature.inputs
        if missing := [spec.name for spec in specs if spec.name not in sample.inputs]:
            held = ", ".join(sample.inputs) or "nothing"
            raise DataError(f"{sample.where} has no {', '.join(missing)}; it holds {held}")
        arrays = {
            spec.name: as_input(sample.inputs[spec.name], spec, sample.where) for spec in specs
        }
        sample = replace(sample, labels=_plain_labels(sample.labels))
        for inputs, labels in _split(arrays, sample, specs, self._symbols):
            try:
                bind_sizes(self._signature, self._symbols, inputs)
            except InputError as error:
                raise DataError(f"{sample.where}: {error}") from error
            yield inputs, labels


def _split(
    arrays: dict[str, np.ndarray],
    sample: Sample,
    specs: tuple[TensorSpec, ...],
    symbols: dict[str, Symbol],
) -> Iterator[Batch]:
    """Cut the rows of a sample into batches of a size the signature allows."""
    leading = next((spec.shape[0] for spec in specs if spec.shape), None)
    cut = [spec for spec in specs if spec.shape and spec.shape[0] == leading]
    for spec in cut:
        if arrays[spec.name].ndim != len(spec.shape):
            shape = list(arrays[spec.name].shape)
            raise DataError(f"{sample.where}: {spec.name} has shape {shape}, expected {spec}")
    if leading is None:
        yield arrays, sample.labels
        return
    rows = _row_count({spec.name: arrays[spec.name] for spec in cut}, sample)
    size = _batch_size(rows, leading, symbols, sample.where)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        inputs = arrays | {spec.name: arrays[spec.name][part] for spec in cut}
        yield inputs, _rows_of(sample, rows, part)


def _row_count(arrays: dict[str, np.ndarray], sample: Sample) -> int:
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{sample.where}: the arrays have different numbers of rows: {listed}")
    return next(iter(counts.values()))


def _batch_size(rows: int, leading: Size, symbols: dict[str, Symbol], where: str) -> int:
    """The largest usual batch the signature allows, such that the last one is allowed as well."""
    if isinstance(leading, int):
        low = high = leading
    elif leading.is_Symbol:
        low, high = symbols[leading.name].minimum, symbols[leading.name].maximum
    else:
        return max(rows, 1)
    if rows == 0:
        return low
    for size in range(min(high, max(low, USUAL_BATCH), max(rows, low)), low - 1, -1):
        if rows % size == 0 or rows % size >= low:
            return size
    raise DataError(f"{where}: {rows} rows do not divide into batches of {low}..{high}")


def _rows_of(sample: Sample, rows: int, part: slice) -> Any:
    """The labels of some rows; labels of a whole batch may have any form."""
    labels = sample.labels
    if isinstance(labels, np.ndarray) and labels.ndim and len(labels) != rows:
        raise DataError(f"{sample.where}: {len(labels)} labels for {rows} rows")
    if labels is None or (part.start == 0 and part.stop >= rows):
        return labels
    if not isinstance(labels, np.ndarray | list | tuple) or len(labels) != rows:
        raise DataError(f"{sample.where}: {rows} rows need as many labels, in an array or a list")
    return labels[part]


def _plain_labels(labels: Any) -> Any:
    return labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels


def _label_bytes(labels: Any) -> bytes:
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iufbc":
        return f"{labels.dtype} {labels.shape}".encode() + labels.tobytes()
    return repr(labels).encode()
