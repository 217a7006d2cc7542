"""Operators that read maps at real coordinates: grids, regions, deformed kernels."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, sizes
from effc.ir.trace.onnx.registry import Operator

CUBIC = -0.75


def pick(x: Tensor, places: list[Tensor]) -> Tensor:
    """Elements of maps at integer coordinates.

    Args:
        x: [batch, channels, *space].
        places: Per dimension of space, int64 [batch, points].

    Returns:
        [batch, channels, points].
    """
    flat: Any = None
    for place, size in zip(places, x.shape[2:], strict=True):
        flat = place if flat is None else flat * size + place
    index = flat.unsqueeze(1).expand([flat.shape[0], x.shape[1], flat.shape[1]])
    return torch.gather(x.reshape([*x.shape[:2], -1]), 2, index)


def pick_or_zero(x: Tensor, places: list[Tensor]) -> Tensor:
    """The same, zero outside of the map."""
    inside: Any = None
    limited = []
    for place, size in zip(places, x.shape[2:], strict=True):
        within = (place >= 0) & (place < size)
        inside = within if inside is None else inside & within
        limited.append(torch.clamp(place, 0, size - 1))
    return torch.where(inside.unsqueeze(1), pick(x, limited), torch.zeros([], dtype=x.dtype))


def interpolate(
    x: Tensor, at: list[Tensor], read: Callable[[Tensor, list[Tensor]], Tensor]
) -> Tensor:
    """Linear interpolation in every dimension of space.

    Args:
        x: [batch, channels, *space].
        at: Per dimension, real coordinates [batch, points].
        read: Reads maps at integer coordinates.

    Returns:
        [batch, channels, points].
    """
    low = [torch.floor(part) for part in at]
    shares = [part - base for part, base in zip(at, low, strict=True)]
    total: Any = None
    for corner in itertools.product((0, 1), repeat=len(at)):
        places = [base.to(torch.int64) + up for base, up in zip(low, corner, strict=True)]
        weight: Any = None
        for share, up in zip(shares, corner, strict=True):
            factor = share if up else 1 - share
            weight = factor if weight is None else weight * factor
        part = read(x, places) * weight.unsqueeze(1)
        total = part if total is None else total + part
    return total


def _reflected(at: Tensor, low: float, high: float) -> Tensor:
    """Coordinates folded back into a range."""
    width = high - low
    if width <= 0:
        return torch.zeros_like(at)
    distance = torch.remainder(torch.abs(at - low), 2 * width)
    return low + torch.where(distance > width, 2 * width - distance, distance)


def _limited(at: Tensor, size: int, mode: str, corners: bool) -> Tensor:
    if mode == "border":
        return torch.clamp(at, 0, size - 1)
    if mode == "reflection":
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        return torch.clamp(_reflected(at, low, high), 0, size - 1)
    return at


def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    corners = bool(call.get("align_corners", 0))
    padding, mode = call.get("padding_mode", "zeros"), call.get("mode", "linear")
    rank = x.dim() - 2
    batch, channels = x.shape[:2]
    shape = list(grid.shape[1:-1])
    points = grid.reshape([batch, -1, rank])
    at = []
    for dim in range(rank):
        size, value = x.shape[2 + dim], points.select(-1, rank - 1 - dim)
        real = (value + 1) / 2 * (size - 1) if corners else ((value + 1) * size - 1) / 2
        at.append(real)
    if mode in ("cubic", "bicubic"):
        result = _cubic(x, at, padding, corners)
    else:
        at = [_limited(a, x.shape[2 + d], padding, corners) for d, a in enumerate(at)]
        if mode == "nearest":
            result = pick_or_zero(x, [torch.round(part).to(torch.int64) for part in at])
        else:
            result = interpolate(x, at, pick_or_zero)
    return result.reshape([batch, channels, *shape]).to(x.dtype)


def _cubic_weights(share: Tensor) -> list[Tensor]:
    """Weights of the four neighbours (Keys, 1981)."""
    weights = []
    for offset in (-1, 0, 1, 2):
        x = torch.abs(share - offset)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
        far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
        weights.append(near if offset in (0, 1) else far)
    return weights


def _cubic(x: Tensor, at: list[Tensor], padding: str, corners: bool) -> Tensor:
    low = [torch.floor(part) for part in at]
    weights = [_cubic_weights(part - base) for part, base in zip(at, low, strict=True)]
    rows = [
        [_limited(base + step, x.shape[2 + dim], padding, corners) for step in (-1, 0, 1, 2)]
        for dim, base in enumerate(low)
    ]
    total: Any = None
    for offsets in itertools.product(range(4), repeat=len(at)):
        places = [rows[dim][offset].to(torch.int64) for dim, offset in enumerate(offsets)]
        factors = [weights[dim][offset] for dim, offset in enumerate(offsets)]
        weight = functools.reduce(torch.mul, factors)
        part = pick_or_zero(x, places) * weight.unsqueeze(1)
        total = part if total is None else total + part
    return total


def _roi_align(call: Call, x: Tensor, rois: Tensor, batches: Tensor) -> Tensor:
    """Means or maxima of points inside the cells of regions (He et al., 2017, arXiv 1703.06870)."""
    height, width = call.get("output_height", 1), call.get("output_width", 1)
    count = call.get("sampling_ratio", 0)
    if count == 0:
        raise call.refuse("the number of samples depends on the regions' sizes")
    scale = call.get("spatial_scale", 1.0)
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"
    is_half = call.get("coordinate_transformation_mode", default) == "half_pixel"
    offset = 0.5 if is_half else 0.0
    edges = rois * scale - offset
    left, top, right, bottom = (edges.select(1, place) for place in range(4))
    tall, broad = bottom - top, right - left
    if not is_half:
        tall, broad = torch.clamp_min(tall, 1.0), torch.clamp_min(broad, 1.0)
    rows = _samples(top, tall, height, count)
    columns = _samples(left, broad, width, count)
    number = rois.shape[0]
    grid = [number, height * count, width * count]
    at = [rows.unsqueeze(2).expand(grid), columns.unsqueeze(1).expand(grid)]
    maps = torch.index_select(x, 0, batches.to(torch.int64))
    points = [part.reshape([number, -1]) for part in at]
    is_max = call.get("mode", "avg") == "max"
    cells = [number, x.shape[1], height, count, width, count]
    values = _aligned_values(maps, points, cells, is_max)
    return values


def _samples(start: Tensor, length: Tensor, cells: int, count: int) -> Tensor:
    """Coordinates of the sampled points along one side, [regions, cells * count]."""
    steps = (torch.arange(cells * count, dtype=start.dtype) + 0.5) / count
    return start.unsqueeze(1) + steps * (length / cells).unsqueeze(1)


def _aligned_values(maps: Tensor, at: list[Tensor], cells: list[Any], is_max: bool) -> Tensor:
    """Interpolated points per cell; those more than one pixel outside count as zero."""
    inside: Any = None
    limited = []
    for part, size in zip(at, maps.shape[2:], strict=True):
        within = (part >= -1.0) & (part <= size)
        inside = within if inside is None else inside & within
        limited.append(torch.clamp(part, 0.0, size - 1.0))
    if not is_max:
        values = interpolate(maps, limited, _pick_limited)
        values = torch.where(inside.unsqueeze(1), values, torch.zeros([], dtype=maps.dtype))
        return torch.mean(values.reshape(cells), [3, 5])
    corners = [part.reshape([*cells]) for part in _weighted_corners(maps, limited, inside)]
    best = corners[0]
    for corner in corners[1:]:
        best = torch.maximum(best, corner)
    return torch.amax(best, [3, 5])


def _weighted_corners(maps: Tensor, at: list[Tensor], inside: Tensor) -> list[Tensor]:
    """The four terms of the interpolation, of which the operator takes the largest."""
    low = [torch.floor(part) for part in at]
    shares = [part - base for part, base in zip(at, low, strict=True)]
    terms = []
    for corner in itertools.product((0, 1), repeat=2):
        places = [base.to(torch.int64) + up for base, up in zip(low, corner, strict=True)]
        factors = [s if up else 1 - s for s, up in zip(shares, corner, strict=True)]
        value = _pick_limited(maps, places) * (factors[0] * factors[1]).unsqueeze(1)
        terms.append(torch.where(inside.unsqueeze(1), value, torch.zeros([], dtype=maps.dtype)))
    return terms


def _pick_limited(x: Tensor, places: list[Tensor]) -> Tensor:
    limited = [torch.clamp(p, 0, size - 1) for p, size in zip(places, x.shape[2:], strict=True)]
    return pick(x, limited)


def _deform_conv(
    call: Call,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A convolution whose kernel positions move (Dai et al., 2017, arXiv 1703.06211)."""
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    pads, groups = call.get("pads", [0] * 2 * rank), call.get("group", 1)
    parts = call.get("offset_group", 1)
    batch, channels = x.shape[:2]
    space = list(offset.shape[2:])
    count = kernel[0] * kernel[1]
    shifts = offset.reshape([batch, parts, count, rank, *space])
    maps = x.reshape([batch * parts, channels // parts, *x.shape[2:]])
    columns = []
    for position in range(count):
        inside = divmod(position, kernel[1])
        at = []
        for dim in range(rank):
            base = torch.arange(space[dim], dtype=x.dtype) * strides[dim] - pads[dim]
            base = (base + inside[dim] * dilations[dim]).reshape([-1, *[1] * (rank - 1 - dim)])
            at.append((shifts[:, :, position, dim] + base).reshape([batch * parts, -1]))
        value = interpolate(maps, at, pick_or_zero)
        value = value.reshape([batch, parts, channels // parts, *space])
        if mask is not None:
            share = mask.reshape([batch, parts, count, *space])[:, :, position]
            value = value * share.unsqueeze(2)
        columns.append(value.reshape([batch, groups, channels // groups, -1]))
    stacked = torch.stack(columns, 3).reshape([batch, groups, channels // groups * count, -1])
    rows = weight.reshape([groups, weight.shape[0] // groups, -1])
    result = torch.matmul(rows, stacked).reshape([batch, weight.shape[0], *space])
    return result if bias is None else result + bias.reshape([-1, *[1] * rank])


def _affine_grid(call: Call, theta: Tensor, size: Any) -> Tensor:
    space = sizes(size, "the size of its grid")[2:]
    corners = bool(call.get("align_corners", 0))
    rank, axes = len(space), []
    for dim, length in enumerate(space):
        steps = torch.arange(length, dtype=theta.dtype)
        axis = steps * 2 / (length - 1) - 1 if corners else (steps * 2 + 1) / length - 1
        axes.append(axis.reshape([-1, *[1] * (rank - 1 - dim)]).expand(space))
    ones = torch.ones(space, dtype=theta.dtype)
    points = torch.stack([*axes[::-1], ones], -1).reshape([-1, rank + 1])
    grid = torch.matmul(points, theta.transpose(1, 2))
    return grid.reshape([theta.shape[0], *space, rank])


TABLE: dict[str, Any] = {
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "DeformConv": _deform_conv,
    "AffineGrid": Operator(_affine_grid, (1,)),
}
