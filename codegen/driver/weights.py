"""What a driver knows of the file it reads weights from.

Integers that fit in fewer bits than a byte are stored in as few, and of weights with many zeros
only the others, behind a bit for every element. Both are unpacked when a model is loaded;
everything else is mapped as it lies in the file.
"""

from dataclasses import dataclass

import numpy as np

ALIGN = 64
LEAST_NBYTES = 1024  # smaller weights are not worth unpacking
MOST_SHARE = 0.85  # of the bytes, for a weight without its zeros
SCALES = ".scales"  # derived for other widths from how they lie in the file (elastic artifacts)


@dataclass(frozen=True)
class Stored:
    """How a weight lies in the file.

    Attributes:
        count: Elements.
        itemsize: Bytes of one.
        bits: Of a stored element: `value + 2 ** (bits - 1)` for integers of 1 to 7 bits, the first
            one in the lowest bits; 0 for elements as they are.
        nonzero: Elements that are stored, behind a bit per element, the first one in the lowest
            bit of the first byte; `count` without such bits.
    """

    count: int
    itemsize: int
    bits: int
    nonzero: int

    @classmethod
    def of(cls, name: str, value: np.ndarray) -> "Stored":
        """The smallest form of a weight."""
        count, itemsize = value.size, value.itemsize
        plain = cls(count, itemsize, 0, count)
        is_known = value.dtype in (np.int8, np.uint16, np.float32) and not name.endswith(SCALES)
        if value.nbytes < LEAST_NBYTES or not is_known:
            return plain
        dense = plain
        if value.dtype == np.int8:
            largest = max(int(value.max()), -1 - int(value.min()))
            bits = largest.bit_length() + 1
            dense = cls(count, itemsize, bits if bits < 8 else 0, count)
        sparse = cls(count, itemsize, dense.bits, int(np.count_nonzero(_words(value))))
        return sparse if sparse.nbytes <= MOST_SHARE * dense.nbytes else dense

    @property
    def is_packed(self) -> bool:
        """Whether it is unpacked on loading."""
        return self.bits > 0 or self.has_mask

    @property
    def has_mask(self) -> bool:
        """Whether zeros are left out."""
        return self.nonzero < self.count

    @property
    def mask_nbytes(self) -> int:
        """Bytes of the bits that say which elements are stored."""
        return -(-self.count // 8) if self.has_mask else 0

    @property
    def nbytes(self) -> int:
        """Bytes in the file, before it is filled up."""
        width = self.bits or 8 * self.itemsize
        return self.mask_nbytes + -(-self.nonzero * width // 8)

    @property
    def room(self) -> int:
        """Bytes in the file."""
        return filled(self.nbytes)

    @property
    def text(self) -> str:
        """What the file says of it."""
        bits = f" in {self.bits} bits" if self.bits else ""
        return bits + (f", {self.nonzero} not zero" if self.has_mask else "")

    def content(self, value: np.ndarray) -> np.ndarray:
        """What is written of a weight: uint8 [nbytes]."""
        flat = np.ascontiguousarray(value).reshape(-1)
        if not self.is_packed:
            return flat.view(np.uint8)
        mask = np.zeros(0, np.uint8)
        if self.has_mask:
            is_kept = _words(flat) != 0
            mask, flat = np.packbits(is_kept, bitorder="little"), flat[is_kept]
        return np.concatenate((mask, self._elements(flat)))

    def _elements(self, flat: np.ndarray) -> np.ndarray:
        if not self.bits:
            return flat.view(np.uint8)
        codes = (flat.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        single = np.unpackbits(codes[:, None], axis=1, count=self.bits, bitorder="little")
        return np.packbits(single, bitorder="little")


def _words(value: np.ndarray) -> np.ndarray:
    """The bits of elements, so that a negative zero counts as an element."""
    return value.view(np.uint32) if value.dtype == np.float32 else value


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
            stored = Stored.of(name, value)
            offsets[name] = at
            if stored.is_packed:
                unpacked[name] = Unpacked(at, room, stored)
                room += filled(value.nbytes)
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
