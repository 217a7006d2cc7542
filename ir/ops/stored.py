"""Weights in fewer bits than the 8 that kernels multiply: packed where they are stored."""

import math

import torch
from torch import Tensor

from effc.ir.encoding import pack_codes, packed_nbytes, unpack_codes


def pack_signed(codes: Tensor, bits: int) -> Tensor:
    """Codes around zero as `unpack_signed` reads them.

    Args:
        codes: int8 `[rows, ...]`, `-2 ** (bits - 1)` to `2 ** (bits - 1) - 1`.
        bits: Width of a code, 2 to 7.

    Returns:
        uint8 `[rows, nbytes]`.
    """
    rows = codes.reshape(len(codes), -1).to(torch.int16)
    return pack_codes(rows + (1 << (bits - 1)), bits)


@torch.library.custom_op("effc::unpack_signed", mutates_args=())
def unpack_signed(stored: Tensor, bits: int, shape: list[int]) -> Tensor:
    """Codes around zero from a stream of bits per row, `2 ** (bits - 1)` less than what is stored.

    Args:
        stored: uint8 `[rows, nbytes]`, packed as in `pack_codes`.
        bits: Width of a code, 2 to 7.
        shape: Of a row of codes.

    Returns:
        int8 `[rows, *shape]`.
    """
    codes = unpack_codes(stored, bits, math.prod(shape)).to(torch.int16) - (1 << (bits - 1))
    return codes.to(torch.int8).reshape(-1, *shape)


@unpack_signed.register_fake
def _(stored: Tensor, bits: int, shape: list[int]) -> Tensor:
    if not 2 <= bits <= 7:
        raise ValueError(f"codes of {bits} bits; there are 2 to 7")
    if stored.dim() != 2 or stored.shape[1] != packed_nbytes(math.prod(shape), bits):
        raise ValueError(f"{math.prod(shape)} codes of {bits} bits in rows {list(stored.shape)}")
    return stored.new_empty((stored.shape[0], *shape), dtype=torch.int8)
