"""Low-bit codes as they are stored: a stream of bits per row, the first code in the lowest bits."""

import torch
from torch import Tensor

TOGETHER = 8  # codes of any width that fill whole bytes together


def packed_nbytes(count: int, bits: int) -> int:
    """Bytes that a row of codes takes."""
    return -(-count * bits // 8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Store codes in as few bytes as a row takes.

    Args:
        codes: Integers `[..., count]`, 0 to `2**bits - 1`.
        bits: Width of a code, 1 to 8.

    Returns:
        uint8 `[..., ceil(count * bits / 8)]`; unused bits of the last byte are zero.
    """
    count = codes.shape[-1]
    padded = torch.nn.functional.pad(codes, (0, -count % TOGETHER))
    split = padded.reshape(*codes.shape[:-1], -(-count // TOGETHER), TOGETHER)
    words = torch.zeros(split.shape[:-1], dtype=torch.int64)
    for place in range(TOGETHER):
        words |= split[..., place].to(torch.int64) << (bits * place)
    stored = torch.stack([(words >> (8 * byte)) & 255 for byte in range(bits)], -1)
    return stored.to(torch.uint8).flatten(-2)[..., : packed_nbytes(count, bits)].contiguous()


def unpack_codes(stored: Tensor, bits: int, count: int) -> Tensor:
    """The codes of `pack_codes`.

    Args:
        stored: uint8 `[..., ceil(count * bits / 8)]`.
        bits: Width of a code, 1 to 8.
        count: Codes per row.

    Returns:
        uint8 `[..., count]`.
    """
    padded = torch.nn.functional.pad(stored, (0, -stored.shape[-1] % bits))
    split = padded.reshape(*stored.shape[:-1], padded.shape[-1] // bits, bits)
    words = torch.zeros(split.shape[:-1], dtype=torch.int64)
    for byte in range(bits):
        words |= split[..., byte].to(torch.int64) << (8 * byte)
    largest = (1 << bits) - 1
    codes = [((words >> (bits * place)) & largest).to(torch.uint8) for place in range(TOGETHER)]
    return torch.stack(codes, -1).flatten(-2)[..., :count]
