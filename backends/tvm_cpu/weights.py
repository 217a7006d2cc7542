"""Weights of an artifact: one safetensors file that the driver maps.

It is written here and not by the library `safetensors`, which orders what is said about the file at
random: the same weights must give the same bytes.
"""

import json
from pathlib import Path

import numpy as np

from effc.codegen.driver.weights import ALIGN, Stored

PREFIX = 8


def weight_header(weights: dict[str, np.ndarray]) -> bytes:
    """What the file says about its tensors, so long that the data starts at a multiple of 64 bytes.

    Every tensor is stored as bytes, filled up to a multiple of 64; the metadata has their types,
    the bits of an element where they are fewer than its type has, and how many are not zero where
    only those are stored.
    """
    digits = len(str(len(weights)))
    kinds: dict[str, str] = {}
    tensors: dict[str, object] = {"__metadata__": kinds}
    at = 0
    for number, (name, value) in enumerate(weights.items()):
        label = f"{number:0{digits}d}.{name}"
        stored = Stored.of(name, value)
        kinds[label] = f"{value.dtype}{list(value.shape)}{stored.text}"
        nbytes = stored.room
        tensors[label] = {"dtype": "U8", "shape": [nbytes], "data_offsets": [at, at + nbytes]}
        at += nbytes
    header = json.dumps(tensors, separators=(",", ":")).encode()
    return header + b" " * (-(PREFIX + len(header)) % ALIGN)


def write_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Write the file with every weight, and the data as a whole, at a multiple of 64 bytes."""
    header = weight_header(weights)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(PREFIX, "little"))
        file.write(header)
        for name, value in weights.items():
            stored = Stored.of(name, value)
            file.write(stored.content(value).data)
            file.write(b"\0" * (stored.room - stored.nbytes))
