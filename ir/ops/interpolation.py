"""A function of 16-bit codes by straight lines, in integers that any processor computes alike."""

import torch
from torch import Tensor

PIECES, PART_BITS = 64, 10  # of 2^16 codes
SHIFT = 15


@torch.library.custom_op("effc::interpolate", mutates_args=())
def interpolate(
    x: Tensor, base: list[int], slope: list[int], fraction_bits: int, dtype: torch.dtype
) -> Tensor:
    """Codes of 8 bits from codes of 16 bits by a line for every 1,024 of them.

    With `piece = (x >> 10) & 63` and `part = x & 1023` the result is
    `(base[piece] + ((slope[piece] * part + 2^14) >> 15)) >> fraction_bits`, limited to 16 bits
    before the last shift and to `dtype` after it.

    Args:
        x: int16, any shape.
        base: 64 numbers of 16 bits: the results at the start of the pieces, with `fraction_bits`
            bits behind the point and half a code for rounding. Pieces of negative codes come last.
        slope: 64 numbers of 16 bits: what the result grows by over a piece, times 32.
        fraction_bits: Bits behind the point.
        dtype: uint8 or int8.

    Returns:
        Codes of `dtype` and the shape of `x`.
    """
    wide = x.to(torch.int32)
    piece, part = (wide >> PART_BITS) & (PIECES - 1), wide & ((1 << PART_BITS) - 1)
    starts, slopes = (torch.tensor(table, dtype=torch.int32)[piece] for table in (base, slope))
    grown = (slopes * part + (1 << (SHIFT - 1))) >> SHIFT
    short, limits = torch.iinfo(torch.int16), torch.iinfo(dtype)
    fine = (starts + grown).clamp(short.min, short.max)
    return (fine >> fraction_bits).clamp(limits.min, limits.max).to(dtype)


@interpolate.register_fake
def _(
    x: Tensor, base: list[int], slope: list[int], fraction_bits: int, dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(x, dtype=dtype)
