"""The packed layouts of weights: the only place that defines them.

A packed product weight is a sequence of panels of `width` output columns. Within a panel, for every
tap and every group of `depth` input features, the columns follow each other with their group's
features side by side, so that one load fetches what one multiply-add step needs:
`[group][panel][tap][features / depth][width][depth]`, zero where a dimension is not a multiple.
"""

from dataclasses import dataclass

import numpy as np
import torch

from effc.ir.encoding import unpack_codes


def known(tensors: list[torch.Tensor | None], position: int) -> torch.Tensor:
    """A tensor that must be a weight."""
    tensor = tensors[position]
    if tensor is None:
        raise ValueError(f"input {position} is no weight")
    return tensor


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A numpy view; the bits of bfloat16 as uint16, those of float8 as uint8."""
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        return tensor.view(torch.uint8).numpy()
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy()


def panels(matrix: np.ndarray, width: int, depth: int) -> np.ndarray:
    """Pack matrices into panels.

    Args:
        matrix: `[groups, taps, features, columns]`.
        width: Columns of a panel.
        depth: Features side by side.

    Returns:
        `[groups, panels, taps, ceil(features / depth), width, depth]`, contiguous.
    """
    groups, taps, features, columns = matrix.shape
    padded = np.zeros(
        (groups, taps, -(-features // depth) * depth, -(-columns // width) * width), matrix.dtype
    )
    padded[:, :, :features, :columns] = matrix
    split = padded.reshape(groups, taps, -1, depth, padded.shape[3] // width, width)
    return np.ascontiguousarray(split.transpose(0, 4, 1, 2, 5, 3))


@dataclass(frozen=True)
class PackProduct:
    """Packs the weight of a linear layer or convolution.

    Attributes:
        weight: Input position of the weight: `[columns, features]` or
            `[columns, features / groups, height, width]`.
        width: Columns of a panel.
        depth: Features side by side.
        groups: Channel groups of a convolution.
        joins_row: Whether the taps of a filter row and the features form one run of features.
    """

    weight: int
    width: int
    depth: int
    groups: int = 1
    joins_row: bool = True

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`."""
        weight = as_array(known(tensors, self.weight))
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        columns, features, height, width = weight.shape
        grouped = weight.reshape(self.groups, columns // self.groups, features, height, width)
        taps_first = grouped.transpose(0, 3, 4, 2, 1)
        taps = height if self.joins_row else height * width
        matrix = taps_first.reshape(self.groups, taps, -1, columns // self.groups)
        return panels(np.ascontiguousarray(matrix), self.width, self.depth)


@dataclass(frozen=True)
class ColumnSums:
    """Sums of the integer weights of each column, times a static zero point.

    `sum((x - z) * w) = sum(x * w) - z * sum(w)`: this is the second term, negated and padded to
    whole panels, or plain `-sum(w)` where the zero point is only known at run time.

    Attributes:
        weight: Input position of the codes.
        zero_point: Input position of the static zero point, or None.
        width: Columns of a panel.
        groups: Channel groups of a convolution.
    """

    weight: int
    zero_point: int | None
    width: int
    groups: int = 1

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Sum `tensors[weight]` over everything but its columns."""
        codes = known(tensors, self.weight).numpy().astype(np.int32)
        sums = codes.reshape(codes.shape[0], -1).sum(axis=1, dtype=np.int32)
        if self.zero_point is not None:
            sums = sums * int(known(tensors, self.zero_point).item())
        grouped = sums.reshape(self.groups, -1)
        columns = grouped.shape[1]
        padded = np.zeros((self.groups, -(-columns // self.width) * self.width), np.int32)
        padded[:, :columns] = -grouped
        return padded


@dataclass(frozen=True)
class PackDepthwise:
    """Packs a depthwise filter `[channels, 1, height, width]` as `[height, width, channels]`.

    Attributes:
        weight: Input position of the filter.
        lanes: Channels are padded to a multiple of this.
    """

    weight: int
    lanes: int

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`; integer codes become float32, which holds them exactly."""
        weight = known(tensors, self.weight).float().numpy()
        channels, _, height, width = weight.shape
        padded = np.zeros((height, width, -(-channels // self.lanes) * self.lanes), np.float32)
        padded[:, :, :channels] = weight[:, 0].transpose(1, 2, 0)
        return padded


@dataclass(frozen=True)
class PackTaps:
    """Packs a depthwise filter of codes for a dot product of four taps at a time.

    The layout is `[channels / lanes][steps][lanes][4]`, zero where a step has no tap.

    Attributes:
        weight: Input position of the filter `[channels, 1, height, width]`.
        lanes: Channels side by side.
        steps: The taps of each step, counted along rows; -1 for none.
    """

    weight: int
    lanes: int
    steps: tuple[tuple[int, ...], ...]

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`."""
        codes = known(tensors, self.weight).numpy()
        channels, blocks = codes.shape[0], -(-codes.shape[0] // self.lanes)
        taps = np.zeros((blocks * self.lanes, codes[0].size + 1), np.int8)  # the last: no tap
        taps[:channels, :-1] = codes.reshape(channels, -1)
        picked = taps[:, np.array(self.steps)].reshape(blocks, self.lanes, len(self.steps), -1)
        return np.ascontiguousarray(picked.transpose(0, 2, 1, 3))


FEATURES, STEP = 32, 4  # features of a block of low-bit codes, and of a step of the dot product
STEPS = FEATURES // STEP


def fields_of(bits: int) -> list[tuple[int, int]]:
    """The parts of a code that fill bytes evenly, lowest first: their place in it and width."""
    fields, place = [], 0
    for width in (8, 4, 2, 1):
        if bits - place >= width:
            fields.append((place, width))
            place += width
    return fields


@dataclass(frozen=True)
class PackCodes:
    """Packs low-bit codes so that one load gives every lane a byte of several steps.

    Columns form panels. A panel goes on group after group, in a group plane after plane; a plane is
    a sequence of blocks of 32 features, zero where there are fewer. In a block every vector of
    columns has, for each field of the codes (`fields_of`), as many vectors of bytes as the field
    has bits: byte `j` of lane `i` holds feature `4 * step + j` of column `i`, the lowest bits that
    of the first step.

    Attributes:
        weight: Input position of the stored codes.
        bits: Width of a code.
        group: Features that share a scale.
        features: Codes per row.
        vectors: Vectors of columns in a panel.
        lanes: Columns of a vector.
    """

    weight: int
    bits: int
    group: int
    features: int
    vectors: int
    lanes: int

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`: `[panel][group, plane, block][vector][bits][lanes][4]`."""
        codes = unpack_codes(known(tensors, self.weight), self.bits, self.features).numpy()
        planes = codes.reshape(-1, *codes.shape[-2:])
        blocks = [self._blocks(plane) for plane in planes]
        size = -(-self.group // FEATURES)
        total = blocks[0].shape[1]
        order = [
            plane[:, first : first + size] for first in range(0, total, size) for plane in blocks
        ]
        return np.ascontiguousarray(np.concatenate(order, 1))

    def _blocks(self, codes: np.ndarray) -> np.ndarray:
        """One plane `[columns, features]` as `[panel, block, vector, bits, lanes, 4]`."""
        columns, features = codes.shape
        width = self.vectors * self.lanes
        padded = np.pad(codes, ((0, -columns % width), (0, -features % FEATURES)))
        split = padded.reshape(
            -1, self.vectors, self.lanes, padded.shape[1] // FEATURES, STEPS, STEP
        )
        steps = split.transpose(0, 3, 1, 4, 2, 5)
        parts = []
        for place, bits in fields_of(self.bits):
            field = (steps >> place) & ((1 << bits) - 1)
            together = field.reshape(*field.shape[:3], bits, 8 // bits, self.lanes, STEP)
            shifts = (np.arange(8 // bits, dtype=np.uint8) * bits)[:, None, None]
            parts.append(np.bitwise_or.reduce(together << shifts, axis=4))
        return np.concatenate(parts, 3)


@dataclass(frozen=True)
class PackGroups:
    """Packs what every group of a low-bit weight has: `[panel][group][plane][width]`.

    Attributes:
        weight: Input position of the scales, or of the stored zero points.
        width: Columns of a panel.
        bits: Width of a stored zero point; None for scales.
        groups: Groups per row.
        columns: Columns that read what is stored for one.
    """

    weight: int
    width: int
    bits: int | None
    groups: int
    columns: int = 1

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`; zero points take a byte each, one of all columns one for each."""
        stored = known(tensors, self.weight)
        values = as_array(
            stored if self.bits is None else unpack_codes(stored, self.bits, self.groups)
        )
        planes = values.reshape(-1, *values.shape[-2:])
        if planes.shape[1] < self.columns:
            planes = np.repeat(planes, self.columns, axis=1)
        padded = np.pad(planes, ((0, 0), (0, -planes.shape[1] % self.width), (0, 0)))
        split = padded.reshape(len(planes), -1, self.width, self.groups)
        return np.ascontiguousarray(split.transpose(1, 3, 0, 2))


@dataclass(frozen=True)
class PackTable:
    """Hands on the values of codes.

    Attributes:
        weight: Input position of them.
    """

    weight: int

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """`tensors[weight]`, float32 `[2 ** bits]`."""
        return np.ascontiguousarray(known(tensors, self.weight).numpy())


@dataclass(frozen=True)
class PackBlocks:
    """Packs the blocks of a linear weight that are not all zeros, panel after panel.

    A block is what one multiply-add step of a panel needs: `width` columns by `depth` features.
    Panels have a multiple of `together` blocks, zeros at feature 0 making up the number.

    Attributes:
        weight: Input position of the weight `[columns, features]`.
        width: Columns of a panel.
        depth: Features side by side.
        together: Blocks of a turn of the kernel's loop.
        part: `panels`, the blocks `[block][width][depth]`; `places`, the first feature of each,
            int32; `starts`, where panels start in both, and their end, int32 `[panels + 1]`.
    """

    weight: int
    width: int
    depth: int
    together: int
    part: str

    def __call__(self, tensors: list[torch.Tensor | None]) -> np.ndarray:
        """Pack `tensors[weight]`."""
        weight = known(tensors, self.weight)
        blocks = self._blocks(as_array(weight))
        marks = self._blocks((weight != 0).numpy())  # bits of -0.0 are not all 0
        is_held = np.asarray(marks.any((2, 3)))
        counts = -(-is_held.sum(1) // self.together) * self.together
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        if self.part == "starts":
            return starts
        total = max(int(starts[-1]), 1)
        places, held = np.zeros(total, np.int32), np.zeros((total, *blocks.shape[2:]), blocks.dtype)
        for start, panel, mask in zip(starts[:-1], blocks, is_held, strict=True):
            steps = np.flatnonzero(mask)
            places[start : start + len(steps)] = steps * self.depth
            held[start : start + len(steps)] = panel[steps]
        return places if self.part == "places" else held

    def _blocks(self, weight: np.ndarray) -> np.ndarray:
        """`[panel][step][width][depth]`."""
        matrix = np.ascontiguousarray(weight.T)[None, None]
        return panels(matrix, self.width, self.depth)[0, :, 0]
