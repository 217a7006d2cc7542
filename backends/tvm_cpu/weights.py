"""Weights of an artifact: one safetensors file whose data the driver maps as it is."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

ALIGN = 64
PREFIX = 8


def named_for_order(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights as padded bytes, under names whose sorted order is the order of the file."""
    digits = len(str(len(weights)))
    return {
        f"{number:0{digits}d}.{name}": _padded(value)
        for number, (name, value) in enumerate(weights.items())
    }


def _padded(value: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return np.pad(flat, (0, -len(flat) % ALIGN))


def write_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Write the file with every weight, and the data as a whole, at a multiple of 64 bytes."""
    tensors = named_for_order(weights)
    kinds = {
        name: f"{value.dtype}{list(value.shape)}"
        for name, value in zip(tensors, weights.values(), strict=True)
    }
    content = save(tensors, {**kinds, "pad": ""})
    missing = -(PREFIX + int.from_bytes(content[:PREFIX], "little")) % ALIGN
    if missing:
        content = save(tensors, {**kinds, "pad": " " * missing})
    path.write_bytes(content)
