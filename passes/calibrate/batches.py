"""Calibration data: checked, converted to tensors, fingerprinted."""

import hashlib
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
import torch

from effc.ir.errors import DataError, InputError
from effc.ir.program import FORWARD, Program, bind_sizes

DIGEST_BYTES = 16
Inputs = dict[str, torch.Tensor]


class CalibrationData:
    """Batches a program can run on.

    Args:
        program: Whose method `forward` is to run.
        data: Yields a dict of arrays or tensors by input name, or a tuple of such a dict and
            labels, which are left out. What its method `fingerprint()` returns stands for its
            content; without one every element is hashed.
    """

    def __init__(self, program: Program, data: Iterable[Any]) -> None:
        if iter(data) is data:
            raise DataError(
                "calibration data can be read only once; give a list, or an object whose "
                "__iter__ starts anew"
            )
        self._program, self._data = program, data

    def __iter__(self) -> Iterator[Inputs]:
        """Yield the batches, each checked against the signature.

        Raises:
            DataError: If there is none, or one is not a dict, has wrong names, dtypes or shapes,
                or holds NaN or infinite values.
        """
        count = 0
        for count, item in enumerate(self._data, start=1):
            yield self._batch(count, item)
        if not count:
            raise DataError("calibration data holds no batches")

    @property
    def total(self) -> int:
        """Number of batches where the data knows it, else 0."""
        return len(self._data) if isinstance(self._data, Sized) else 0

    def fingerprint(self) -> str:
        """Hex digest of names, dtypes, shapes, elements and order of all batches."""
        given = getattr(self._data, "fingerprint", None)
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        if callable(given):
            digest.update(str(given()).encode())
            return digest.hexdigest()
        for batch in self:
            for name in sorted(batch):
                tensor = batch[name].contiguous()
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _batch(self, number: int, item: Any) -> Inputs:
        where = f"calibration batch {number}"
        if isinstance(item, tuple | list) and item:
            item = item[0]
        if not isinstance(item, dict):
            raise DataError(f"{where} is a {type(item).__name__}, expected a dict by input name")
        batch = {name: _tensor(where, name, value) for name, value in item.items()}
        signature = self._program.signatures[FORWARD]
        try:
            bind_sizes(signature, self._program.symbols, batch)
        except InputError as error:
            raise DataError(f"{where}: {error}") from error
        for name, value in batch.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise DataError(f"{where}: input {name} holds NaN or infinite values")
        return batch


def _tensor(where: str, name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise DataError(f"{where}: input {name} is not an array of numbers: {error}") from error
