"""Rounding a weight to low-bit codes with a scale per group of input features."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effc.ir.encoding import pack_codes
from effc.ir.ops.grouped import dequantize_grouped, group_count
from effc.passes.base import PassContext
from effc.passes.bits.layers import Layer
from effc.passes.bits.rounding.gptq import DAMPING
from effc.passes.bits.rounding.walk import Inputs
from effc.passes.bits.weights import WeightObserver
from effc.passes.calibrate.decibel import sqnr_db

BLOCK_ELEMENTS = 1 << 18
FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
SCALE = torch.bfloat16
WHOLE = -1
Scheme = Literal["int", "ternary", "e4m3", "e5m2", "nf4", "mxfp4", "mxfp8", "nvfp4"]
SCHEMES = {
    "e4m3": ("e4m3", "bfloat16", None),
    "e5m2": ("e5m2", "bfloat16", None),
    "nf4": ("nf4", "bfloat16", None),
    "mxfp4": ("e2m1", "e8m0", 32),
    "mxfp8": ("e4m3", "e8m0", 32),
    "nvfp4": ("e2m1", "e4m3", 16),
}  # values of codes, scales, features that share one where the format says so


@dataclass(frozen=True)
class Format:
    """How a weight is stored.

    Attributes:
        scheme: `int` codes, two planes of `ternary` ones, or a float format of `SCHEMES`.
        bits: Width of a code, 2 to 8; of a ternary one 2.
        group: Features that share a scale; 0 for a whole row, -1 for the whole weight.
        symmetric: Whether 0.0 has the middle code in every group.
        observer: How the range of a group is chosen.
    """

    scheme: Scheme
    bits: int
    group: int
    symmetric: bool
    observer: WeightObserver

    def __str__(self) -> str:
        rows = {0: "row", WHOLE: "tensor"}.get(self.group, f"group {self.group}")
        if self.scheme == "ternary":
            return f"two ternary planes per {rows}"
        if self.scheme in SCHEMES:
            return f"{self.scheme} per {rows}"
        return f"int{self.bits} per {rows}, {'symmetric' if self.symmetric else 'asymmetric'}"


@dataclass(frozen=True, eq=False)
class Grouped:
    """A weight in codes, as `effc.dequantize_grouped` reads it.

    Attributes:
        codes: uint8, packed.
        scale: bfloat16 per group.
        zero_point: uint8, packed, or None.
        bits: Width of a code.
        group: Features that share a scale.
        features: Codes per row.
        table: Values of codes, or None.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bits: int
    group: int
    features: int
    table: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        every = (self.codes, self.scale, self.zero_point, self.table)
        tensors = [one for one in every if one is not None]
        return sum(one.numel() * one.element_size() for one in tensors)

    def restored(self) -> Tensor:
        """The weight the codes stand for, float32 `[out, in]`."""
        weight: Tensor = dequantize_grouped(
            self.codes,
            self.scale,
            self.zero_point,
            self.bits,
            self.group,
            self.features,
            self.table,
        )
        return weight

    def sqnr_db(self, weight: Tensor) -> float:
        """Signal to quantization noise of the weight."""
        noise = weight.detach() - self.restored()
        signal, lost = (float(one.double().square().sum()) for one in (weight.detach(), noise))
        return sqnr_db(signal, lost)


@dataclass(frozen=True, eq=False)
class Joined:
    """A weight whose columns are stored in runs, each in a format of its own.

    Attributes:
        runs: In order of their columns.
    """

    runs: tuple[Grouped, ...]

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(run.nbytes for run in self.runs)

    @property
    def has_table(self) -> bool:
        """Whether the codes of some run are looked up."""
        return any(run.table is not None for run in self.runs)

    def restored(self) -> Tensor:
        """The weight the codes stand for, float32 `[out, in]`."""
        return torch.cat([run.restored() for run in self.runs], 1)

    def sqnr_db(self, weight: Tensor) -> float:
        """Signal to quantization noise of the weight."""
        noise = weight.detach() - self.restored()
        signal, lost = (float(one.double().square().sum()) for one in (weight.detach(), noise))
        return sqnr_db(signal, lost)


@dataclass(frozen=True)
class Rows:
    """A weight to round by itself.

    Attributes:
        weight: float32 `[out, in]`, finite.
        form: How to store it.
    """

    weight: Tensor
    form: Format

    @property
    def group(self) -> int:
        """Features that share a scale, at most all of them."""
        features = self.weight.shape[1]
        return features if self.form.group < 1 else min(self.form.group, features)

    def blocks(self, elements: int) -> Iterator[Tensor]:
        """The rows of the weight, about as many elements at once."""
        weight = self.weight.detach()
        step = max(1, elements // weight.shape[1])
        for first in range(0, len(weight), step):
            yield weight[first : first + step]


@dataclass(frozen=True)
class Search:
    """Options of methods that look at data.

    Attributes:
        act_order: Whether columns of large inputs are rounded first.
        damping: Share of the mean diagonal of second moments added to it.
        compensation: Share of the change that makes up for errors of the input.
    """

    act_order: bool = True
    damping: float = DAMPING
    compensation: float = 0.0


@dataclass(frozen=True)
class Job(Rows):
    """A weight to round, with what a strategy may want to know.

    Attributes:
        layer: Where it is used.
        ctx: Calibration data, seed and store.
        inputs: What the layer reads; None without data.
        search: Options of methods that look at data.
    """

    layer: Layer
    ctx: PassContext
    inputs: Inputs | None = None
    search: Search = Search()


Rounding = Callable[[Job], Grouped]
Range = tuple[Tensor, Tensor]


def nearest(job: Rows) -> Grouped:
    """Round to the nearest code of the group's range."""
    form, features, group = job.form, job.weight.shape[1], job.group
    scales, zeros, codes = [], [], []
    for rows in job.blocks(BLOCK_ELEMENTS):
        values, known = in_groups(rows, group)
        scale, zero = group_range(values, known, form)
        found = codes_of(values, scale, zero, form.bits)
        scales.append(scale.squeeze(-1))
        zeros.append(zero.squeeze(-1))
        codes.append(pack_codes(found.flatten(1)[:, :features], form.bits))
    zero_point = None if form.symmetric else pack_codes(torch.cat(zeros), form.bits)
    packed, scale = torch.cat(codes), torch.cat(scales).to(SCALE)
    return Grouped(packed, scale, zero_point, form.bits, group, features)


def in_groups(rows: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Rows as `[rows, groups, group]`, zero behind their end, and which elements exist."""
    features = rows.shape[1]
    groups = group_count(features, group)
    padded = torch.nn.functional.pad(rows, (0, groups * group - features))
    exists = (torch.arange(groups * group) < features).reshape(groups, group)
    return padded.reshape(len(rows), groups, group), exists


def codes_of(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """`clamp(round_half_even(value / scale) + zero point)`."""
    return (torch.round(values / scale) + zero).clamp(0, (1 << bits) - 1).to(torch.uint8)


def group_range(values: Tensor, exists: Tensor, form: Format) -> Range:
    """Scale and zero point of every group, `[rows, groups, 1]`; scales fit bfloat16.

    With `observer="mse"` the one of least squared error among those of narrower ranges; symmetric
    ranges may then also give the extra code to the side of the largest magnitude, where the scale
    may be negative.
    """
    candidates = _symmetric if form.symmetric else _asymmetric
    best: Range | None = None
    least = torch.tensor(torch.inf)
    for scale, zero in candidates(values, form):
        if form.observer == "minmax":
            return scale, zero
        codes = codes_of(values, scale, zero, form.bits)
        error = ((codes - zero) * scale - values).mul_(exists).square_().sum(-1, keepdim=True)
        is_better = error < least
        least = torch.where(is_better, error, least)
        if best is None:
            best = scale, zero
        best = torch.where(is_better, scale, best[0]), torch.where(is_better, zero, best[1])
    if best is None:
        raise AssertionError("no candidate")
    return best


def _symmetric(values: Tensor, form: Format) -> list[Range]:
    middle = 1 << (form.bits - 1)
    largest = values.abs().amax(-1, keepdim=True)
    zero = torch.full_like(largest, middle)
    signs = torch.where(values.amax(-1, keepdim=True) >= largest, -1.0, 1.0)
    wide = [(largest / (middle - 1), zero)]
    if form.observer == "mse":
        wide += [(largest * factor / (middle - 1), zero) for factor in FACTORS[1:]]
        wide += [(signs * largest * factor / middle, zero) for factor in FACTORS]
    return [(_stored(scale), zero) for scale, zero in wide]


def _asymmetric(values: Tensor, form: Format) -> list[Range]:
    codes = (1 << form.bits) - 1
    low = values.amin(-1, keepdim=True).clamp(max=0.0)
    high = values.amax(-1, keepdim=True).clamp(min=0.0)
    factors = FACTORS if form.observer == "mse" else FACTORS[:1]
    found = []
    for factor in factors:
        scale = _stored((high - low) * factor / codes)
        found.append((scale, torch.round(-low * factor / scale).clamp(0, codes)))
    return found


def _stored(scale: Tensor) -> Tensor:
    """Scales as they are stored; 1 for a group of zeros."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(scale.abs() < tiny, torch.ones_like(scale), scale).to(SCALE).float()
