"""What a driver knows of the file it reads weights from.

Integers that fit in fewer bits than a byte are stored in as few, and unpacked when a model is
loaded; everything else is mapped as it lies in the file.
"""

from dataclasses import dataclass

import numpy as np

ALIGN = 64
LEAST_NBYTES = 1024  # smaller weights are not worth unpacking


@dataclass(frozen=True)
class Stored:
    """How a weight lies in the file.

    Attributes:
        count: Elements, or bytes where nothing is unpacked.
        bits: Of an element, 1 to 7: `value + 2 ** (bits - 1)`, the first one in the lowest bits; 0
            for bytes as they are.
    """

    count: int
    bits: int = 0

    @classmethod
    def of(cls, value: np.ndarray) -> "Stored":
        """The smallest form of a weight."""
        if value.dtype != np.int8 or value.size < LEAST_NBYTES:
            return cls(value.nbytes)
        largest = max(int(value.max()), -1 - int(value.min()))
        bits = largest.bit_length() + 1
        return cls(value.size, bits) if bits < 8 else cls(value.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, before it is filled up."""
        return -(-self.count * self.bits // 8) if self.bits else self.count

    @property
    def room(self) -> int:
        """Bytes in the file."""
        return filled(self.nbytes)

    def content(self, value: np.ndarray) -> np.ndarray:
        """What is written of a weight."""
        flat = np.ascontiguousarray(value).reshape(-1)
        if not self.bits:
            return flat.view(np.uint8)
        codes = (flat.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        single = np.unpackbits(codes[:, None], axis=1, count=self.bits, bitorder="little")
        return np.packbits(single, bitorder="little")


@dataclass(frozen=True)
class Unpacked:
    """A weight that is unpacked on loading.

    Attributes:
        offset: Bytes from the start of the file's data.
        place: Bytes from the start of the memory of unpacked weights.
        stored: Its elements.
    """

    offset: int
    place: int
    stored: Stored


@dataclass(frozen=True)
class WeightFile:
    """The layout of a file of weights.

    Attributes:
        header: The file's list of weights; a file with another one is refused.
        offsets: Bytes of each weight from the start of the data, in file order.
        nbytes: Bytes of the data.
        unpacked: Weights that are unpacked on loading, by name.
        room: Bytes of the memory they take then.
    """

    header: bytes
    offsets: dict[str, int]
    nbytes: int
    unpacked: dict[str, Unpacked]
    room: int

    @classmethod
    def of(cls, weights: dict[str, np.ndarray], header: bytes) -> "WeightFile":
        """Lay out weights one after the other."""
        offsets: dict[str, int] = {}
        unpacked: dict[str, Unpacked] = {}
        at = room = 0
        for name, value in weights.items():
            stored = Stored.of(value)
            offsets[name] = at
            if stored.bits:
                unpacked[name] = Unpacked(at, room, stored)
                room += filled(stored.count)
            at += stored.room
        return cls(header, offsets, at, unpacked, room)


def filled(nbytes: int) -> int:
    """A size that the next weight can follow."""
    return -(-nbytes // ALIGN) * ALIGN


def fnv1a(content: bytes) -> int:
    """The 64-bit hash of Fowler, Noll and Vo, variant 1a, which `runtime.c` computes too."""
    found = 0xCBF29CE484222325
    for byte in content:
        found = (found ^ byte) * 0x100000001B3 % (1 << 64)
    return found
