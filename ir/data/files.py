"""Arrays in `.npz` and safetensors files, and folders of such files."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from effc.ir.data.batches import Sample
from effc.ir.errors import DataError
from effc.ir.trace.failures import DAMAGED

NPZ, SAFETENSORS = ".npz", ".safetensors"
LABELS = ("labels", "y")


def is_array_file(path: Path) -> bool:
    """Whether a path ends like a file of arrays."""
    return path.suffix in (NPZ, SAFETENSORS)


def array_files(path: Path) -> list[Path]:
    """The files of arrays in a folder in order of name, or the file itself.

    Raises:
        DataError: If a folder holds none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if is_array_file(file))
    if not files:
        raise DataError(f"{path} holds no {NPZ} or {SAFETENSORS} file")
    return files


def array_source(path: Path, inputs: Iterable[str]) -> Callable[[], Iterator[Sample]]:
    """Samples from files of arrays, one per file; labels are in the array `labels` or `y`.

    Args:
        path: A file or a folder.
        inputs: Names of the model's inputs; an input called `labels` is not taken for labels.

    Raises:
        DataError: If a folder holds no such file.
    """
    files = array_files(path)
    names = set(inputs)

    def samples() -> Iterator[Sample]:
        for file in files:
            arrays = read_arrays(file)
            found = (arrays[name] for name in LABELS if name in arrays and name not in names)
            yield Sample(arrays, next(found, None), str(file))

    return samples


def read_arrays(path: Path) -> dict[str, Any]:
    """All arrays or tensors of a file by name.

    Raises:
        DataError: If it is missing, damaged, or holds Python objects.
    """
    try:
        return _read_npz(path) if path.suffix == NPZ else _read_safetensors(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise DataError(f"{path} is damaged or not a file of arrays: {reason}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is not a zip archive, or truncated")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    path.stat()
    try:
        with safe_open(str(path), framework="pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
