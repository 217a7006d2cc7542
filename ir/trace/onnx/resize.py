"""Resizing: every axis by itself, as a weighted sum of picked slices.

Where an axis is resized is known in advance, so the places and weights are constants.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from effc.ir.trace.onnx.call import Call, Sizes, Tensor, listed, outside_tracing, sizes
from effc.ir.trace.onnx.registry import Operator
from effc.ir.trace.onnx.shape import known_indices


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        dim: Which.
        size: Its size before.
        wanted: Its size after.
        scale: The ratio the node asks for, which rounding can make differ from that of the sizes.
        begin: Start of the region of interest, as a share.
        end: End of the region of interest.
    """

    dim: int
    size: int
    wanted: int
    scale: float
    begin: float = 0.0
    end: float = 1.0


def _half_pixel(axis: Axis, at: np.ndarray) -> np.ndarray:
    return (at + 0.5) / axis.scale - 0.5


def _symmetric(axis: Axis, at: np.ndarray) -> np.ndarray:
    offset = axis.size / 2 * (1 - axis.wanted / (axis.scale * axis.size))
    return offset + (at + 0.5) / axis.scale - 0.5


def _pytorch_half_pixel(axis: Axis, at: np.ndarray) -> np.ndarray:
    return _half_pixel(axis, at) if axis.wanted > 1 else np.zeros_like(at)


def _align_corners(axis: Axis, at: np.ndarray) -> np.ndarray:
    """The size that counts is the one before rounding."""
    last = axis.scale * axis.size - 1
    return at * (axis.size - 1) / last if axis.wanted > 1 else np.zeros_like(at)


def _crop(axis: Axis, at: np.ndarray) -> np.ndarray:
    last = axis.size - 1
    if axis.wanted == 1:
        return np.full_like(at, 0.5 * (axis.begin + axis.end) * last)
    return axis.begin * last + at * (axis.end - axis.begin) * last / (axis.wanted - 1)


COORDINATES: dict[str, Callable[[Axis, np.ndarray], np.ndarray]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": lambda axis, at: at / axis.scale,
    "tf_half_pixel_for_nn": lambda axis, at: (at + 0.5) / axis.scale,
    "tf_crop_and_resize": _crop,
}
ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _triangle(x: np.ndarray, slope: float) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, 1)


def _cubic(x: np.ndarray, slope: float) -> np.ndarray:
    """The cubic convolution of Keys (1981) with a free parameter."""
    x = np.abs(x)
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = ((slope * x - 5 * slope) * x + 8 * slope) * x - 4 * slope
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


FILTERS = {"linear": (1, _triangle), "cubic": (2, _cubic)}


def _taps(call: Call, axis: Axis, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights, [taps, wanted] each, of a filter around real coordinates."""
    radius, shape = FILTERS[call.get("mode", "nearest")]
    narrowing = min(axis.scale, 1.0) if call.get("antialias", 0) else 1.0
    reach = -math.floor(-radius / narrowing)
    base = np.ceil(at) - 1
    offsets = np.arange(1 - reach, reach + 1)[:, None]
    weights = shape((offsets - (at - base)) * narrowing, call.get("cubic_coeff_a", -0.75))
    places = base + offsets
    if call.get("exclude_outside", 0):
        weights = np.where((places < 0) | (places >= axis.size), 0.0, weights)
    if narrowing != 1.0 or call.get("exclude_outside", 0):
        weights = weights / weights.sum(0)
    return np.clip(places, 0, axis.size - 1), weights


def _resized_axis(call: Call, x: Tensor, axis: Axis, transform: str) -> tuple[Tensor, Tensor]:
    """An axis in its new size, and which of its places lie inside the old one."""
    at = COORDINATES[transform](axis, np.arange(axis.wanted, dtype=np.float64))
    inside = torch.from_numpy((at >= 0) & (at <= axis.size - 1))
    if call.get("mode", "nearest") == "nearest":
        default = "round_prefer_floor" if call.version >= 11 and call.op == "Resize" else "floor"
        rounded = ROUNDING[call.get("nearest_mode", default)](at)
        chosen = np.clip(rounded, 0, axis.size - 1).astype(np.int64).tolist()
        return torch.index_select(x, axis.dim, known_indices(chosen)), inside
    places, weights = _taps(call, axis, at)
    shape = [-1, *[1] * (x.dim() - 1 - axis.dim)]
    total: Any = None
    for row, share in zip(places.astype(np.int64).tolist(), weights, strict=True):
        if not share.any():
            continue
        with outside_tracing():
            factor = torch.from_numpy(share).to(x.dtype).reshape(shape)
        part = torch.index_select(x, axis.dim, known_indices(row)) * factor
        total = part if total is None else total + part
    return total, inside


def _axes(call: Call, x: Tensor, roi: Any, scales: Any, wanted: Any) -> list[Axis]:
    """The axes whose size changes, or whose part is cut out."""
    dims = [axis % x.dim() for axis in call.get("axes", list(range(x.dim())))]
    have = [x.shape[dim] for dim in dims]
    if not all(isinstance(size, int) for size in have):
        raise call.refuse("an axis of a size not known in advance is resized")
    if wanted is not None:
        targets = sizes(wanted, "its sizes")
        ratios = [t / h for t, h in zip(targets, have, strict=True)]
        policy = call.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            targets = [math.floor(ratio * size + 0.5) for size in have]
            ratios = [ratio] * len(have)
    else:
        ratios = [float(one) for one in listed(scales, "its scales")]
        targets = [math.floor(size * ratio) for size, ratio in zip(have, ratios, strict=True)]
    if any(target < 0 for target in targets):
        raise ValueError(f"sizes {targets} are negative")
    region = [0.0] * len(dims) + [1.0] * len(dims)
    is_cropped = call.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if is_cropped and roi is not None:
        region = [float(one) for one in listed(roi, "its region of interest")]
    count = len(dims)
    rows = zip(dims, have, targets, ratios, region[:count], region[count:], strict=True)
    found = [Axis(*row) for row in rows]
    return [a for a in found if is_cropped or a.size != a.wanted or a.scale != 1.0]


def _resize(
    call: Call, x: Tensor, roi: Any = None, scales: Any = None, wanted: Any = None
) -> Tensor:
    if call.version < 11:
        return _upsample(call, x, roi)
    if scales is not None and not isinstance(scales, Sizes) and scales.numel() == 0:
        scales = None
    transform = call.get("coordinate_transformation_mode", "half_pixel")
    dtype = x.dtype
    is_integer = not dtype.is_floating_point and call.get("mode", "nearest") != "nearest"
    value = x.to(torch.float32) if is_integer else x
    outside = []
    for axis in _axes(call, x, roi, scales, wanted):
        value, inside = _resized_axis(call, value, axis, transform)
        outside.append((axis.dim, inside))
    if transform == "tf_crop_and_resize":
        for dim, inside in outside:
            mask = inside.reshape([-1, *[1] * (x.dim() - 1 - dim)])
            value = torch.where(mask, value, call.get("extrapolation_value", 0.0))
    return torch.round(value).to(dtype) if is_integer else value.to(dtype)


def _upsample(call: Call, x: Tensor, scales: Any = None) -> Tensor:
    """The older form: coordinates are divided by the scale, nearest is rounded down."""
    if scales is None:
        ratios = call.get("scales")
        if ratios is None:
            ratios = [1.0, 1.0, call.get("height_scale", 1.0), call.get("width_scale", 1.0)]
        with outside_tracing():
            scales = torch.tensor(ratios)
    for axis in _axes(call, x, None, scales, None):
        x = _resized_axis(call, x, axis, "asymmetric")[0]
    return x


TABLE: dict[str, Any] = {
    "Resize": Operator(_resize, (2, 3)),
    "Upsample": _upsample,
}
