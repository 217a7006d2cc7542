"""Weights kept in the user's cache directory, safe against processes that run side by side."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Weights = dict[str, Tensor]


def directory() -> Path:
    """`$XDG_CACHE_HOME/effc/zoo`, or below `~/.cache`; made if missing."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "effc" / "zoo"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(sources: Sequence[Path]) -> str:
    """Sixteen hexadecimal digits that change with the contents of the sources."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def weights(name: str, sources: Sequence[Path], make: Callable[[], nn.Module]) -> Weights:
    """The weights of a model: from the cache, or made now and put there.

    Of several processes that ask at once, one makes them and the others wait.

    Args:
        name: what the file's name begins with.
        sources: files on whose contents the weights depend.
        make: trains the model.
    """
    path = directory() / f"{name}-{key(sources)}.safetensors"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            save(make().state_dict(), path)
    stored: Weights = load_file(path)
    return stored


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; it falls open by itself when the process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save(tensors: Weights, path: Path) -> None:
    """Write tensors so that the path never shows a partial file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        os.replace(temporary, path)
