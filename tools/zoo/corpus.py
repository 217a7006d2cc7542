"""Text for the language model: the standard library's files, split by file name."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo import standard_library

BOUNDARY = b"\0"
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Split:
    """Files of one side of the split, and their bytes.

    Attributes:
        files: relative to the standard library's folder, in name order.
        text: uint8 [bytes]; every file follows one zero byte.
    """

    files: tuple[Path, ...]
    text: NDArray[np.uint8]


def is_held_out(file: Path) -> bool:
    """Whether the file is kept from training; depends on its name alone."""
    digest = hashlib.sha256(file.as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def split(held_out: bool) -> Split:
    """The training side or the held-out side of the corpus."""
    files = tuple(f for f in standard_library.sources() if is_held_out(f) == held_out)
    root = standard_library.root()
    text = b"".join(BOUNDARY + (root / file).read_bytes() for file in files)
    return Split(files, np.frombuffer(text, dtype=np.uint8))


def windows(text: NDArray[np.uint8], first: int, count: int, length: int) -> NDArray[np.int64]:
    """Windows spread evenly over a text, without randomness and without state.

    Window `i` starts at `i * text.size / golden ratio`, modulo what fits: a Weyl sequence, whose
    points are spread more evenly than random ones, so that few bytes are missed.

    Args:
        text: uint8 [bytes].
        first: index of the first window.
        count: number of windows.
        length: bytes of a window.

    Returns:
        int64 [count, length].
    """
    room = text.size - length + 1
    stride = round(room / ((1 + 5**0.5) / 2))
    starts = [index * stride % room for index in range(first, first + count)]
    return np.stack([text[start : start + length] for start in starts]).astype(np.int64)
