"""Arrays on disk that a kill cannot leave half written and damage cannot pass for data.

An entry `name` is two files: `name.json` with the index, and the safetensors file it names, whose
digest it holds. The index is replaced last, in one step. Whatever does not fit is ignored.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

FORMAT = 1
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Shelf:
    """A folder of entries about one program and one set of data.

    Attributes:
        folder: Where the files are; made when needed.
        key: Text that an entry must carry to be believed.
    """

    folder: Path
    key: str

    def read(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The index and arrays of an entry; None if it is missing, damaged or foreign."""
        try:
            index = json.loads((self.folder / f"{name}.json").read_text())
            if index["format"] != FORMAT or index["key"] != self.key:
                return None
            content = (self.folder / index["tensors"]).read_bytes()
            if _digest(content) != index["digest"]:
                return None
            return index["content"], load(content)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None

    def write(self, name: str, index: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Put an entry in place of what was there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = save({label: np.ascontiguousarray(value) for label, value in arrays.items()})
        digest = _digest(content)
        file = f"{name}-{digest}.safetensors"
        _replace(self.folder / file, content)
        header = {"format": FORMAT, "key": self.key, "tensors": file, "digest": digest}
        text = json.dumps({**header, "content": index}, indent=1)
        _replace(self.folder / f"{name}.json", text.encode())
        self._sweep(name, keep=file)

    def remove(self, name: str) -> None:
        """Delete an entry if it is there."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        self._sweep(name, keep="")

    def _sweep(self, name: str, keep: str) -> None:
        for path in self.folder.glob(f"{name}-*.safetensors"):
            if path.name != keep:
                path.unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
