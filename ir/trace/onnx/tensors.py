"""Tensors stored in a model, read without copying where the bytes allow it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.ir.errors import ModelError
from effc.ir.trace.onnx.elements import Element, element_of

EXTERNAL = 1
NARROW_FIELDS = {
    "float": "float_data",
    "double": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}
COMPLEX_FIELDS = {"complex64": "float_data", "complex128": "double_data"}


def tensor_of(proto: Any, folder: Path | None) -> torch.Tensor:
    """The values of a TensorProto.

    Args:
        proto: The message.
        folder: Where external data lies; None for models without a file.

    Raises:
        ModelError: If the data do not fit its type and shape, or lie outside the folder.
    """
    label = f"tensor {proto.name or '(unnamed)'}"
    element = element_of(proto.data_type)
    if element is None:
        raise ModelError(
            f"{label} has elements of type {proto.data_type}, which effc does not read"
        )
    shape = [int(size) for size in proto.dims]
    if any(size < 0 for size in shape):
        raise ModelError(f"{label} has the shape {shape}")
    count = math.prod(shape)
    nbytes = (count * element.bits + 7) // 8
    if proto.data_location == EXTERNAL:
        raw = _external(proto, folder, nbytes, label)
    elif proto.HasField("raw_data"):
        raw = np.frombuffer(proto.raw_data, np.uint8)
    else:
        return _from_fields(proto, element, shape, count, label)
    if raw.size != nbytes:
        raise ModelError(
            f"{label} of type {element.name} and shape {shape} needs {nbytes} bytes; "
            f"the model holds {raw.size}"
        )
    return _from_bytes(raw, element, shape, count)


def _external(proto: Any, folder: Path | None, nbytes: int, label: str) -> np.ndarray:
    """Map a part of a file in the model's folder."""
    facts = {entry.key: entry.value for entry in proto.external_data}
    location = facts.get("location", "")
    if folder is None or not location:
        raise ModelError(f"{label} lies in another file, which is not given")
    root = folder.resolve()
    path = (root / location).resolve()
    if not path.is_relative_to(root):
        raise ModelError(f"{label} is refused: its data lie outside the model's folder: {location}")
    try:
        offset, length = int(facts.get("offset", 0)), int(facts.get("length", nbytes))
        available = path.stat().st_size - offset
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the data of {label} in {location}: {error}") from error
    if offset < 0 or length != nbytes or available < nbytes:
        raise ModelError(
            f"{label} needs {nbytes} bytes; {location} holds {max(min(length, available), 0)}"
        )
    if nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "c", offset, (nbytes,))


def _from_bytes(raw: np.ndarray, element: Element, shape: list[int], count: int) -> torch.Tensor:
    if element.bits < 8:
        return decoded(unpacked(raw, element.bits, count), element).reshape(shape)
    if not raw.flags.writeable:
        raw = raw.copy()  # torch warns about memory it could write to but must not
    if raw.size == 0:
        return torch.zeros(shape, dtype=element.dtype)
    if raw.ctypes.data % (element.bits // 8):
        raw = raw.copy()
    return torch.from_numpy(raw).view(element.dtype).reshape(shape)


def unpacked(raw: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Codes of 2, 4 or 6 bits out of bytes, the first in the lowest bits.

    Args:
        raw: uint8 [bytes].
        bits: Bits of one code.
        count: How many codes there are.
    """
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(-1)[:count]
    flags = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
    return (flags << np.arange(bits, dtype=np.uint8)).sum(1).astype(np.uint8)


def decoded(codes: np.ndarray, element: Element) -> torch.Tensor:
    """Codes narrower than a byte as the values torch holds: sign-extended, or float32."""
    bits = element.bits
    if element.is_float:
        return torch.from_numpy(float_values(bits, element.mantissa)[codes])
    wide = codes.astype(np.int16)
    if element.range[0] < 0:
        wide = np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide)
    return torch.from_numpy(wide).to(element.dtype)


def float_values(bits: int, mantissa: int) -> np.ndarray:
    """The value of every code of a narrow float with a sign bit and no infinities.

    Args:
        bits: Bits of a code.
        mantissa: Bits of its fraction.

    Returns:
        float32 [2 ** bits].
    """
    exponent_bits = bits - 1 - mantissa
    bias = (1 << (exponent_bits - 1)) - 1
    codes = np.arange(1 << bits)
    exponent = (codes >> mantissa) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    normal = (1.0 + fraction) * np.exp2(exponent - bias)
    value = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), normal)
    return np.where(codes >> (bits - 1), -value, value).astype(np.float32)


def _from_fields(
    proto: Any, element: Element, shape: list[int], count: int, label: str
) -> torch.Tensor:
    """Values from the typed fields; types without a field of their own lie in `int32_data`."""
    name = element.name
    field = {**NARROW_FIELDS, **COMPLEX_FIELDS}.get(name, "int32_data")
    values = np.array(getattr(proto, field))
    if name in COMPLEX_FIELDS:
        values = values[0::2] + 1j * values[1::2]
    elif element.bits < 8 and values.size != count:
        values = unpacked(values.astype(np.uint8), element.bits, count)
    if values.size != count:
        raise ModelError(f"{label} has the shape {shape} but holds {values.size} values")
    if element.bits < 8:
        codes = (values.astype(np.int64) & ((1 << element.bits) - 1)).astype(np.uint8)
        return decoded(codes, element).reshape(shape)
    holds_bits = field == "int32_data" and element.is_float
    if holds_bits:
        unsigned = np.uint16 if element.bits == 16 else np.uint8
        return torch.from_numpy(values.astype(unsigned)).view(element.dtype).reshape(shape)
    return torch.from_numpy(values).to(element.dtype).reshape(shape)
