"""Calls a built model through its C interface."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from effc.ir.errors import ArtifactError, InputError

ABI_VERSION = 1
_POINTER = ctypes.c_void_p


class Library:
    """A loaded `model.so`.

    Args:
        path: The shared library.
        weights: The weights file.
        threads: How many threads to use; 0 for what the model was built for.

    Raises:
        ArtifactError: If it cannot be loaded, or was built for another machine.
    """

    def __init__(self, path: Path, weights: Path, threads: int = 0) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ArtifactError(f"cannot load {path}: {error}") from error
        self._declare()
        found = self._library.effc_abi_version()
        if found != ABI_VERSION:
            raise ArtifactError(f"{path} has interface version {found}, expected {ABI_VERSION}")
        self._model = _POINTER()
        if self._library.effc_open(str(weights).encode(), threads, ctypes.byref(self._model)):
            raise ArtifactError(self._message())

    def run(
        self,
        inputs: list[np.ndarray],
        outputs: list[np.ndarray],
        symbols: list[int],
        seconds: np.ndarray | None = None,
    ) -> None:
        """Run once.

        Args:
            inputs: Contiguous arrays, in the order of the signature.
            outputs: Contiguous arrays to write to.
            symbols: Values of the symbolic dimensions.
            seconds: float64 `[step_count]`, filled with the time of every step; or None.

        Raises:
            InputError: If a size is outside its range.
        """
        sizes = (ctypes.c_int64 * max(len(symbols), 1))(*symbols)
        sources = (_POINTER * max(len(inputs), 1))(*[array.ctypes.data for array in inputs])
        results = (_POINTER * max(len(outputs), 1))(*[array.ctypes.data for array in outputs])
        times = None if seconds is None else seconds.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        if self._library.effc_run_profiled(self._model, sizes, sources, results, times):
            raise InputError(self._message())

    @property
    def memory_nbytes(self) -> int:
        """Bytes of working memory of the last run."""
        return int(self._library.effc_memory(self._model))

    @property
    def step_names(self) -> list[str]:
        """Family and source of every step."""
        count = self._library.effc_step_count()
        return [self._library.effc_step_name(i).decode() for i in range(count)]

    def close(self) -> None:
        """Stop the threads and free the memory."""
        if self._model:
            self._library.effc_close(self._model)
            self._model = _POINTER()

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    def _message(self) -> str:
        return str(self._library.effc_message().decode())

    def _declare(self) -> None:
        integer, text = ctypes.c_int, ctypes.c_char_p
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "effc_abi_version": (integer, []),
            "effc_message": (text, []),
            "effc_open": (integer, [text, integer, ctypes.POINTER(_POINTER)]),
            "effc_run_profiled": (
                integer,
                [_POINTER, _POINTER, _POINTER, _POINTER, ctypes.POINTER(ctypes.c_double)],
            ),
            "effc_memory": (ctypes.c_size_t, [_POINTER]),
            "effc_step_count": (integer, []),
            "effc_step_name": (text, [integer]),
            "effc_close": (None, [_POINTER]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
