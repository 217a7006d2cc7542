"""What a driver knows of the file it reads weights from."""

from dataclasses import dataclass

import numpy as np

ALIGN = 64


@dataclass(frozen=True)
class WeightFile:
    """The layout of a file of weights.

    Attributes:
        header: The file's list of weights; a file with another one is refused.
        offsets: Bytes of each weight from the start of the data, in file order.
        nbytes: Bytes of the data.
    """

    header: bytes
    offsets: dict[str, int]
    nbytes: int

    @classmethod
    def of(cls, weights: dict[str, np.ndarray], header: bytes) -> "WeightFile":
        """Lay out weights one after the other."""
        offsets, at = {}, 0
        for name, value in weights.items():
            offsets[name] = at
            at += -(-value.nbytes // ALIGN) * ALIGN
        return cls(header, offsets, at)


def fnv1a(content: bytes) -> int:
    """The 64-bit hash of Fowler, Noll and Vo, variant 1a, which `runtime.c` computes too."""
    found = 0xCBF29CE484222325
    for byte in content:
        found = (found ^ byte) * 0x100000001B3 % (1 << 64)
    return found
