"""Codecs: how groups of weights become codes, and what codes stand for, as they are stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from effc.ir.float_formats import CODE_BITS, LARGEST, nearest_codes, power_of_two, values_of
from effc.passes.bits.rounding.grid import Matrix

Codes = NDArray[np.uint8]
Range = tuple[Matrix, Matrix]
SHARES = tuple(1.0 - 0.02 * step for step in range(26))
TINY = float(np.finfo(np.float32).tiny)


class Codec(Protocol):
    """A number format of the weights of a group, which share a scale and a zero point."""

    @property
    def bits(self) -> int:
        """Width of a code."""

    def candidates(self, values: Matrix) -> Iterator[Range]:
        """Scales and zero points `[...]` for `values [..., width]`, the best guess first."""

    def codes(self, values: Matrix, scale: Matrix, zero: Matrix) -> Codes:
        """The nearest codes; scale and zero broadcast against `values`."""

    def restored(self, codes: Codes, scale: Matrix, zero: Matrix) -> Matrix:
        """What codes stand for."""


def fitted_range(codec: Codec, values: Matrix, importance: Matrix | float = 1.0) -> Range:
    """The candidate of least squared error for every group.

    Args:
        codec: Of the groups.
        values: float64 `[..., width]`.
        importance: Weights of the squared errors, broadcast against `values`.
    """
    best: Range | None = None
    least: Matrix | None = None
    for scale, zero in codec.candidates(values):
        codes = codec.codes(values, scale[..., None], zero[..., None])
        found = codec.restored(codes, scale[..., None], zero[..., None])
        error = ((found - values) ** 2 * importance).sum(-1)
        if best is None or least is None:
            best, least = (scale, zero), error
            continue
        is_better = error < least
        least = np.where(is_better, error, least)
        best = np.where(is_better, scale, best[0]), np.where(is_better, zero, best[1])
    if best is None:
        raise AssertionError("a codec has candidates")
    return best


@dataclass(frozen=True)
class IntegerCodec:
    """Values `(code - zero) * scale` with scales in bfloat16 and whole zero points.

    Attributes:
        bits: Width of a code, 2 to 8.
        is_symmetric: The zero point is the middle code; scales may then be negative, which gives
            the extra code to the side of the largest magnitude.
        is_clipped: Whether narrower ranges are candidates, too.
    """

    bits: int
    is_symmetric: bool = True
    is_clipped: bool = True

    def candidates(self, values: Matrix) -> Iterator[Range]:
        """The whole range, then narrower ones."""
        shares = SHARES if self.is_clipped else SHARES[:1]
        yield from (self._symmetric if self.is_symmetric else self._asymmetric)(values, shares)

    def codes(self, values: Matrix, scale: Matrix, zero: Matrix) -> Codes:
        """`clamp(round_half_even(value / scale) + zero)`."""
        found = np.round(values / scale) + zero
        return np.clip(found, 0, (1 << self.bits) - 1).astype(np.uint8)

    def restored(self, codes: Codes, scale: Matrix, zero: Matrix) -> Matrix:
        """`(code - zero) * scale`."""
        return np.asarray((codes - zero) * scale)

    def _symmetric(self, values: Matrix, shares: tuple[float, ...]) -> Iterator[Range]:
        middle = 1 << (self.bits - 1)
        largest = np.abs(values).max(-1)
        zero = np.full(largest.shape, float(middle))
        yield as_bfloat16(largest / (middle - 1)), zero
        if not self.is_clipped:
            return
        signs = np.where(values.max(-1) >= largest, -1.0, 1.0)
        for share in shares[1:]:
            yield as_bfloat16(largest * share / (middle - 1)), zero
        for share in shares:
            yield as_bfloat16(signs * largest * share / middle), zero

    def _asymmetric(self, values: Matrix, shares: tuple[float, ...]) -> Iterator[Range]:
        most = (1 << self.bits) - 1
        low, high = np.minimum(values.min(-1), 0), np.maximum(values.max(-1), 0)
        for share in shares:
            scale = as_bfloat16((high - low) * share / most)
            yield scale, np.clip(np.round(-low * share / scale), 0, most)


@dataclass(frozen=True)
class TableCodec:
    """Values `table[code] * scale`: small floats and code books.

    Attributes:
        format: Of `effc.ir.float_formats`.
        scales: How scales are stored: `bfloat16`, powers of two (`e8m0`) or `e4m3`.
        unit: What all scales are multiplied by, of the whole weight.
        is_clipped: Whether other scales than that of the largest magnitude are candidates.
    """

    format: str
    scales: str = "bfloat16"
    unit: float = 1.0
    is_clipped: bool = True

    @property
    def bits(self) -> int:
        """Width of a code."""
        return CODE_BITS[self.format]

    def candidates(self, values: Matrix) -> Iterator[Range]:
        """The scale that takes the largest magnitude to the largest value, then others."""
        largest = np.abs(values).max(-1) / self.unit
        zero = np.zeros(largest.shape)
        if self.scales == "e8m0":
            # OCP microscaling: 2^(floor(log2(largest)) - exponent of the largest value)
            floor = power_of_two(torch.tensor(LARGEST[self.format])).item()
            base = power_of_two(torch.from_numpy(largest)).double().numpy() / floor
            for factor in (1.0, 2.0, 0.5) if self.is_clipped else (1.0,):
                whole = power_of_two(torch.from_numpy(base * factor)).double().numpy()
                yield np.where(largest > 0, whole, 1.0), zero
            return
        for share in SHARES if self.is_clipped else SHARES[:1]:
            scale = largest * share / LARGEST[self.format]
            yield (as_bfloat16(scale) if self.scales == "bfloat16" else as_e4m3(scale)), zero

    def codes(self, values: Matrix, scale: Matrix, zero: Matrix) -> Codes:
        """The codes of the nearest values."""
        wanted = torch.from_numpy(np.asarray(values / (scale * self.unit)))
        return nearest_codes(wanted, self.format).numpy()

    def restored(self, codes: Codes, scale: Matrix, zero: Matrix) -> Matrix:
        """`table[code] * scale`."""
        return np.asarray(self.table.double().numpy()[codes] * scale)

    @property
    def table(self) -> torch.Tensor:
        """Values of codes times the unit, float32 `[2 ** bits]`; what is not finite as 0.0."""
        return values_of(self.format).nan_to_num(0.0, 0.0, 0.0) * float(np.float32(self.unit))


@dataclass(frozen=True)
class BinaryCodec(TableCodec):
    """One bit: the scale with either sign; the mean magnitude is the best one."""

    format: str = "sign"

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1

    def candidates(self, values: Matrix) -> Iterator[Range]:
        """The mean magnitude."""
        mean = np.abs(values).mean(-1)
        yield as_bfloat16(mean), np.zeros(mean.shape)

    def codes(self, values: Matrix, scale: Matrix, zero: Matrix) -> Codes:
        """1 for what is not negative."""
        return np.broadcast_to(values >= 0, np.broadcast_shapes(values.shape, scale.shape)).astype(
            np.uint8
        )

    @property
    def table(self) -> torch.Tensor:
        """Minus one and one."""
        return torch.tensor([-1.0, 1.0])


def as_bfloat16(scale: Matrix) -> Matrix:
    """Scales as they are stored; 1 for a group of zeros."""
    safe = np.where(np.abs(scale) < TINY, 1.0, scale)
    return np.asarray(torch.from_numpy(safe).to(torch.bfloat16).double().numpy())


def as_e4m3(scale: Matrix) -> Matrix:
    """Scales as float8; never 0."""
    found = values_of("e4m3")[nearest_codes(torch.from_numpy(scale), "e4m3").long()].double()
    return np.asarray(torch.where(found > 0, found, 2.0**-9).numpy())
