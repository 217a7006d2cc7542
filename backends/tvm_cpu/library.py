"""Calls a built model through its C interface."""

import _ctypes
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from effc.ir.errors import ArtifactError, InputError, UsageError

ABI_VERSION = 1
_POINTER = ctypes.c_void_p
_PROFILED = [_POINTER, _POINTER, _POINTER, _POINTER, ctypes.POINTER(ctypes.c_double)]
_INTERFACE: dict[str, tuple[Any, list[Any]]] = {
    "effc_abi_version": (ctypes.c_int, []),
    "effc_message": (ctypes.c_char_p, []),
    "effc_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(_POINTER)]),
    "effc_run_profiled": (ctypes.c_int, _PROFILED),
    "effc_memory": (ctypes.c_size_t, [_POINTER]),
    "effc_step_count": (ctypes.c_int, []),
    "effc_step_name": (ctypes.c_char_p, [ctypes.c_int]),
    "effc_close": (None, [_POINTER]),
}


class Library:
    """A loaded `model.so`. Calls from several threads follow each other.

    Args:
        path: The shared library.
        weights: The weights file.
        threads: How many threads to use; 0 for what the model was built for.

    Raises:
        ArtifactError: If it cannot be loaded, or was built for another machine.
    """

    def __init__(self, path: Path, weights: Path, threads: int = 0) -> None:
        self._lock, self._process, self._model = Lock(), os.getpid(), _POINTER()
        self._library = _loaded(path)
        if (problem := self._opened(path, weights, threads)) is not None:
            _ctypes.dlclose(self._library._handle)
            raise ArtifactError(problem)

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
            UsageError: If the model is closed, or was loaded before this process was forked.
        """
        sizes = (ctypes.c_int64 * max(len(symbols), 1))(*symbols)
        sources = (_POINTER * max(len(inputs), 1))(*[array.ctypes.data for array in inputs])
        results = (_POINTER * max(len(outputs), 1))(*[array.ctypes.data for array in outputs])
        times = None if seconds is None else seconds.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
        with self._usable():
            if self._library.effc_run_profiled(self._model, sizes, sources, results, times):
                raise InputError(self._message())

    @property
    def memory_nbytes(self) -> int:
        """Bytes of working memory of the last run and of unpacked weights; 0 once closed."""
        if self._process != os.getpid():
            return 0
        with self._lock:
            return int(self._library.effc_memory(self._model)) if self._model else 0

    @property
    def step_names(self) -> list[str]:
        """Family and source of every step."""
        with self._usable():
            count = self._library.effc_step_count()
            return [self._library.effc_step_name(i).decode() for i in range(count)]

    def close(self) -> None:
        """Stop the threads, free the memory and unload the library."""
        if self._process != os.getpid():
            return
        with self._lock:
            if not self._model:
                return
            self._library.effc_close(self._model)
            self._model = _POINTER()
            _ctypes.dlclose(self._library._handle)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.close()

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Hold the lock; a fork may have copied it locked, so the process is checked first."""
        if self._process != os.getpid():
            raise UsageError("the model was loaded before this process was forked; load it again")
        with self._lock:
            if not self._model:
                raise UsageError("the model is closed; load it again with effc.load")
            yield

    def _opened(self, path: Path, weights: Path, threads: int) -> str | None:
        """Open the model; return why not."""
        found = self._library.effc_abi_version()
        if found != ABI_VERSION:
            return f"{path} has interface version {found}, expected {ABI_VERSION}"
        if self._library.effc_open(os.fsencode(weights), threads, ctypes.byref(self._model)):
            return self._message()
        return None

    def _message(self) -> str:
        return str(self._library.effc_message().decode(errors="replace"))


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_spelled(path.resolve()))
        for name, (result, arguments) in _INTERFACE.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition(path.name)[2].lstrip(
            ": "
        )
        raise ArtifactError(f"cannot load {path}: {reason}") from error
    return library


def _spelled(path: Path) -> str:
    """The path of a file, spelled in a way that no other file at the same place is.

    The loader takes a library of the same name for the same library, also when an artifact was
    replaced since. So the number of the file is written into the name: `//` for 0, `/./` for 1.
    """
    info = path.stat()
    bits = f"{info.st_dev:b}0{info.st_ino:064b}"
    return f"{path.parent}/{''.join('/' if bit == '0' else './' for bit in bits)}{path.name}"
