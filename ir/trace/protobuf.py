"""Recognising an ONNX file by its wire format, without the onnx package."""

import os
from typing import IO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
GRAPH = 7
# Field numbers of ModelProto with the wire type each must have.
MODEL_FIELDS = {
    1: VARINT,  # ir_version
    2: BYTES,  # producer_name
    3: BYTES,  # producer_version
    4: BYTES,  # domain
    5: VARINT,  # model_version
    6: BYTES,  # doc_string
    7: BYTES,  # graph
    8: BYTES,  # opset_import
    14: BYTES,  # metadata_props
    20: BYTES,  # training_info
    25: BYTES,  # functions
    26: BYTES,  # configuration
}
VARINT_LIMIT = 10


def is_onnx(stream: IO[bytes]) -> bool:
    """Whether a whole file is one ModelProto with a graph, judging by its top-level fields."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    seen: set[int] = set()
    try:
        while stream.tell() < end:
            tag = _varint(stream)
            field, wire = tag >> 3, tag & 7
            if MODEL_FIELDS.get(field) != wire:
                return False
            seen.add(field)
            value = _varint(stream)
            if wire == BYTES and stream.seek(value, os.SEEK_CUR) > end:
                return False
    except (ValueError, OSError, OverflowError):
        return False
    return GRAPH in seen


def _varint(stream: IO[bytes]) -> int:
    value = 0
    for position in range(VARINT_LIMIT):
        byte = stream.read(1)
        if not byte:
            raise ValueError("the file ends inside a number")
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")
