"""Loaders that tests open as `sample_data:name` from this folder."""

from collections.abc import Iterator

import numpy as np


def batches() -> Iterator[tuple[dict[str, np.ndarray], list[int]]]:
    for start in (0, 2):
        yield {"x": np.full((2, 3), start, dtype=np.float32)}, [start, start + 1]


listed = [np.zeros((1, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)]
number = 3


def failing() -> Iterator[np.ndarray]:
    yield listed[0]
    raise RuntimeError("the disk is gone")


def scalar() -> int:
    return 3
