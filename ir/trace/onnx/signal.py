"""Windows and Fourier transforms.

Sums are kept in float64: zeros of a spectrum are differences of large numbers.
"""

import math
from typing import Any

import numpy as np
import torch

from effc.ir.trace.onnx.call import Call, Tensor, number, outside_tracing
from effc.ir.trace.onnx.elements import element_of
from effc.ir.trace.onnx.registry import Operator


def _window(*weights: float) -> Any:
    """A sum of cosines over the length of a window."""

    def rule(call: Call, length: Any) -> Tensor:
        size = int(number(length, "its length"))
        element = element_of(call.get("output_datatype", 1))
        last = size if call.get("periodic", 1) else size - 1
        at = np.arange(size) * (2 * math.pi / max(last, 1))
        values = sum(w * np.cos(order * at) for order, w in enumerate(weights))
        with outside_tracing():
            result = torch.from_numpy(np.asarray(values))
            return result if element is None else result.to(element.dtype)

    return rule


def _matrices(size: int, count: int, is_inverse: bool) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [count, size] each."""
    angles = 2 * math.pi * (np.outer(np.arange(count), np.arange(size)) % size) / size
    factor = 1.0 / size if is_inverse else 1.0
    sign = 1.0 if is_inverse else -1.0
    with outside_tracing():
        cosine = torch.from_numpy(np.cos(angles) * factor)
        return cosine, torch.from_numpy(np.sin(angles) * factor * sign)


def transformed(
    real: Tensor, imaginary: Tensor | None, count: int, is_inverse: bool
) -> tuple[Tensor, Tensor]:
    """The discrete Fourier transform of the last dimension, in float64.

    Args:
        real: [..., size].
        imaginary: [..., size], or None for zeros.
        count: How many frequencies to compute.
        is_inverse: Whether to transform back.

    Returns:
        Real and imaginary part, [..., count].
    """
    cosine, sine = _matrices(real.shape[-1], count, is_inverse)
    rows = real.to(torch.float64).unsqueeze(-2)
    first, second = (rows * cosine).sum(-1), (rows * sine).sum(-1)
    if imaginary is None:
        return first, second
    other = imaginary.to(torch.float64).unsqueeze(-2)
    return first - (other * sine).sum(-1), second + (other * cosine).sum(-1)


def _dft(call: Call, x: Tensor, length: Any = None, axis: Any = None) -> Tensor:
    """Signals are [..., 1] (real) or [..., 2] (real and imaginary part)."""
    if call.version < 20:
        dim = call.get("axis", 1)
    else:
        dim = -2 if axis is None else int(number(axis, "its axis"))
    dim %= x.dim()
    is_inverse, one_sided = bool(call.get("inverse", 0)), bool(call.get("onesided", 0))
    is_half = is_inverse and one_sided
    natural = 2 * (x.shape[dim] - 1) if is_half else x.shape[dim]
    size = natural if length is None else int(number(length, "its length"))
    have = size // 2 + 1 if is_half else size
    x = _fitted(x, dim, have)
    parts = moved_last(x, dim)
    real = parts.select(-2, 0)
    imaginary = parts.select(-2, 1) if x.shape[-1] == 2 else None
    if is_half:
        real, imaginary = _mirrored(real, imaginary, size)
    count = size // 2 + 1 if one_sided and not is_inverse else size
    first, second = transformed(real, imaginary, count, is_inverse)
    results = [first] if is_half else [first, second]
    return moved_back(torch.stack(results, -2), dim).to(x.dtype)


def moved_last(x: Tensor, dim: int) -> Tensor:
    """A dimension put behind all others."""
    return x.permute([*[place for place in range(x.dim()) if place != dim], dim])


def moved_back(x: Tensor, dim: int) -> Tensor:
    """The last dimension put in front of the one at a place."""
    last = x.dim() - 1
    return x.permute([*range(dim), last, *range(dim, last)])


def _mirrored(real: Tensor, imaginary: Tensor | None, size: int) -> tuple[Tensor, Tensor | None]:
    """The whole spectrum of a real signal from its first half."""
    rest = slice(1, size - real.shape[-1] + 1)
    tail = torch.flip(real[..., rest], [-1])
    whole = torch.cat([real, tail], -1)
    if imaginary is None:
        return whole, None
    return whole, torch.cat([imaginary, -torch.flip(imaginary[..., rest], [-1])], -1)


def _fitted(x: Tensor, dim: int, size: int) -> Tensor:
    """Cut or fill with zeros to a size."""
    if x.shape[dim] > size:
        return torch.ops.aten.slice.Tensor(x, dim, 0, size)
    if x.shape[dim] < size:
        pad = [0, 0] * (x.dim() - 1 - dim) + [0, size - x.shape[dim]]
        return torch.ops.aten.constant_pad_nd.default(x, pad, 0.0)
    return x


def _stft(
    call: Call, x: Tensor, step: Any, window: Tensor | None = None, length: Any = None
) -> Tensor:
    hop = int(number(step, "its step"))
    if length is not None:
        size = int(number(length, "the length of its frames"))
    elif window is not None:
        size = window.shape[0]
    else:
        size = x.shape[1]
    parts = [x] if x.dim() == 2 else [x.select(-1, place) for place in range(x.shape[-1])]
    frames = [part.unfold(1, size, hop).to(torch.float64) for part in parts]
    if window is not None:
        left = (size - window.shape[0]) // 2
        pad = [left, size - window.shape[0] - left]
        whole = torch.ops.aten.constant_pad_nd.default(window.to(torch.float64), pad, 0.0)
        frames = [frame * whole for frame in frames]
    count = size // 2 + 1 if call.get("onesided", 1) else size
    imaginary = frames[1] if len(frames) > 1 else None
    return torch.stack(transformed(frames[0], imaginary, count, False), -1).to(x.dtype)


def _mel_weights(call: Call, bins: Any, length: Any, rate: Any, lower: Any, upper: Any) -> Tensor:
    """Triangles on the mel scale, [frequencies, bins]."""
    count, size = int(number(bins, "the number of bins")), int(number(length, "its length"))
    sample, low, high = (float(number(v, "a frequency")) for v in (rate, lower, upper))
    mels = [2595 * np.log10(1 + hertz / 700) for hertz in (low, high)]
    points = np.arange(count + 2) * ((mels[1] - mels[0]) / (count + 2)) + mels[0]
    hertz = 700 * (np.power(10, points / 2595) - 1)
    places = ((size + 1) * hertz // sample).astype(np.int64)
    result = np.zeros((size // 2 + 1, count))
    for place in range(count):
        begin, centre, end = places[place : place + 3]
        if begin == centre:
            result[centre, place] = 1
        rising = np.arange(begin, centre + 1) if begin != centre else np.arange(0)
        result[rising, place] = (rising - begin) / max(centre - begin, 1)
        if centre != end:
            falling = np.arange(centre, end)
            result[falling, place] = (end - falling) / (end - centre)
    element = element_of(call.get("output_datatype", 1))
    with outside_tracing():
        found = torch.from_numpy(result)
        return found if element is None else found.to(element.dtype)


TABLE: dict[str, Any] = {
    "HannWindow": Operator(_window(0.5, -0.5), (0,)),
    "HammingWindow": Operator(_window(25 / 46, -21 / 46), (0,)),
    "BlackmanWindow": Operator(_window(0.42, -0.5, 0.08), (0,)),
    "DFT": Operator(_dft, (1, 2)),
    "STFT": Operator(_stft, (1, 3)),
    "MelWeightMatrix": Operator(_mel_weights, (0, 1, 2, 3, 4)),
}
