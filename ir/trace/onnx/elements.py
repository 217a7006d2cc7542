"""ONNX's element types and the torch types that hold their values.

Integers of 2 and 4 bits are held in bytes, floats of 4 and 6 bits in float32: torch has no
arithmetic for them. What a value's type is in the model is kept beside it.
"""

from dataclasses import dataclass

import torch

FLOAT, UINT8, INT8, STRING, FLOAT16, BFLOAT16 = 1, 2, 3, 8, 10, 16
UINT4, INT4, FLOAT4, UINT2, INT2 = 21, 22, 23, 25, 26


@dataclass(frozen=True)
class Element:
    """An element type.

    Attributes:
        name: ONNX's name.
        dtype: The torch type that holds the values.
        bits: Bits of one element as stored in a file.
        limits: Smallest and largest value, where they are not the torch type's own.
        mantissa: Stored bits of the fraction, for floats narrower than a byte.
    """

    name: str
    dtype: torch.dtype
    bits: int
    limits: tuple[float, float] | None = None
    mantissa: int = 0

    @property
    def is_narrow(self) -> bool:
        """Whether the torch type is wider than the element."""
        return self.limits is not None

    @property
    def is_float(self) -> bool:
        """Whether values are floating point."""
        return self.dtype.is_floating_point

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest finite value."""
        if self.limits is not None:
            return self.limits
        info = torch.finfo(self.dtype) if self.is_float else torch.iinfo(self.dtype)
        return info.min, info.max


ELEMENTS: dict[int, Element] = {
    1: Element("float", torch.float32, 32),
    2: Element("uint8", torch.uint8, 8),
    3: Element("int8", torch.int8, 8),
    4: Element("uint16", torch.uint16, 16),
    5: Element("int16", torch.int16, 16),
    6: Element("int32", torch.int32, 32),
    7: Element("int64", torch.int64, 64),
    9: Element("bool", torch.bool, 8),
    10: Element("float16", torch.float16, 16),
    11: Element("double", torch.float64, 64),
    12: Element("uint32", torch.uint32, 32),
    13: Element("uint64", torch.uint64, 64),
    14: Element("complex64", torch.complex64, 64),
    15: Element("complex128", torch.complex128, 128),
    16: Element("bfloat16", torch.bfloat16, 16),
    17: Element("float8e4m3fn", torch.float8_e4m3fn, 8),
    18: Element("float8e4m3fnuz", torch.float8_e4m3fnuz, 8),
    19: Element("float8e5m2", torch.float8_e5m2, 8),
    20: Element("float8e5m2fnuz", torch.float8_e5m2fnuz, 8),
    21: Element("uint4", torch.uint8, 4, (0, 15)),
    22: Element("int4", torch.int8, 4, (-8, 7)),
    23: Element("float4e2m1", torch.float32, 4, (-6.0, 6.0), mantissa=1),
    24: Element("float8e8m0", torch.float8_e8m0fnu, 8),
    25: Element("uint2", torch.uint8, 2, (0, 3)),
    26: Element("int2", torch.int8, 2, (-2, 1)),
    27: Element("float6e2m3", torch.float32, 6, (-7.5, 7.5), mantissa=3),
    28: Element("float6e3m2", torch.float32, 6, (-28.0, 28.0), mantissa=2),
}
BY_DTYPE = {one.dtype: number for number, one in ELEMENTS.items() if not one.is_narrow}
FLOAT8 = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def element_of(number: int) -> Element | None:
    """The element type of ONNX's number; None for strings and unknown numbers."""
    return ELEMENTS.get(number)
