"""Pooling.

Forms torch has no operator for (one-sided padding, dilated averages, rounding up with padding) are
spelled out: one strided slice per position of the kernel.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, outside_tracing
from effc.ir.trace.onnx.convolution import padded, window_pads


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling lie.

    Attributes:
        kernel: Size per dimension.
        strides: Step per dimension.
        dilations: Distance of a window's elements per dimension.
        pads: All befores, then all afters, as the node gives them.
        grown: The same, with what rounding up adds after the end.
        steps: Number of windows per dimension.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[Any]
    grown: list[Any]
    steps: list[Any]

    @property
    def is_plain(self) -> bool:
        """Whether torch's pooling has such windows."""
        rank = len(self.kernel)
        befores, afters = self.grown[:rank], self.grown[rank:]
        fits = all(2 * p <= k for p, k in zip(befores, self.kernel, strict=True))
        return befores == afters and fits

    def slices(self, x: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """For each position in the kernel, the element there of every window of a padded map."""
        for offset in itertools.product(*map(range, self.kernel)):
            part = x
            for i, place in enumerate(offset):
                start = place * self.dilations[i]
                end = start + (self.steps[i] - 1) * self.strides[i] + 1
                part = torch.ops.aten.slice.Tensor(part, 2 + i, start, end, self.strides[i])
            yield offset, part


def windows_of(call: Call, x: Tensor) -> Windows:
    """The windows a node asks for."""
    kernel = call.get("kernel_shape")
    rank = len(kernel)
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    space = list(x.shape[2:])
    pads = window_pads(call, space, kernel, strides, dilations)
    grown, steps = list(pads), []
    for i in range(rank):
        reach = dilations[i] * (kernel[i] - 1) + 1
        room = space[i] + pads[i] + pads[rank + i] - reach
        count = room // strides[i] + 1
        if call.get("ceil_mode", 0):
            count = -(-room // strides[i]) + 1
            if (count - 1) * strides[i] >= space[i] + pads[i]:
                count = count - 1  # a window must start inside
            grown[rank + i] = max((count - 1) * strides[i] + reach - space[i] - pads[i], 0)
        steps.append(count)
    return Windows(kernel, strides, dilations, pads, grown, steps)


def _max_pool(call: Call, x: Tensor) -> Any:
    windows = windows_of(call, x)
    wants_places = call.wants(1)
    rank = len(windows.kernel)
    is_float = x.dtype.is_floating_point
    if rank in (1, 2) and windows.is_plain and is_float and not wants_places:
        pool = F.max_pool1d if rank == 1 else F.max_pool2d
        befores = windows.grown[:rank]
        return pool(x, windows.kernel, windows.strides, befores, windows.dilations)
    lowest = -math.inf if is_float else torch.iinfo(x.dtype).min
    if not wants_places:
        parts = [part for _, part in windows.slices(padded(x, windows.grown, lowest))]
        return functools.reduce(torch.maximum, parts)
    return _max_with_places(call, x, windows, lowest)


def _max_with_places(
    call: Call, x: Tensor, windows: Windows, lowest: float
) -> tuple[Tensor, Tensor]:
    """The largest of each window, and its number among all elements of the map."""
    batch, channels, *space = x.shape
    rank = len(space)
    strides = [1] * rank
    order = range(rank) if call.get("storage_order", 0) else reversed(range(rank))
    total: Any = 1
    for axis in order:
        strides[axis], total = total, total * space[axis]
    maps = torch.arange(batch * channels).reshape([batch, channels, *[1] * rank]) * total
    best = where = None
    for offset, part in windows.slices(padded(x, windows.grown, lowest)):
        place = maps
        for i, inside in enumerate(offset):
            first = inside * windows.dilations[i] - windows.pads[i]
            along = torch.arange(windows.steps[i]) * windows.strides[i] + first
            place = place + (along * strides[i]).reshape([-1, *[1] * (rank - 1 - i)])
        if best is None or where is None:
            best, where = part, place.expand(part.shape)
        else:
            is_better = part > best
            where = torch.where(is_better, place, where)
            best = torch.maximum(best, part)
    assert best is not None  # a kernel has at least one position
    return best, where  # type: ignore[return-value]


def _average_pool(call: Call, x: Tensor) -> Tensor:
    windows = windows_of(call, x)
    counts_padding = bool(call.get("count_include_pad", 0))
    rank = len(windows.kernel)
    is_dilated = any(one != 1 for one in windows.dilations)
    if rank == 2 and windows.is_plain and windows.grown == windows.pads and not is_dilated:
        return F.avg_pool2d(
            x, windows.kernel, windows.strides, windows.pads[:2], False, counts_padding
        )
    parts = [part for _, part in windows.slices(padded(x, windows.grown))]
    total = functools.reduce(torch.add, parts)
    return total / _counts(windows, list(x.shape[2:]), counts_padding).to(x.dtype)


def _counts(windows: Windows, space: list[Any], counts_padding: bool) -> Tensor:
    """How many elements of each window count."""
    rank = len(space)
    with outside_tracing():
        count = torch.ones([], dtype=torch.int64)
        for i in range(rank):
            before = windows.pads[i]
            low = -before if counts_padding else 0
            high = space[i] + (windows.pads[rank + i] if counts_padding else 0)
            numbers = []
            for step in range(windows.steps[i]):
                start = step * windows.strides[i] - before
                reach = range(windows.kernel[i])
                places = [start + place * windows.dilations[i] for place in reach]
                numbers.append(sum(low <= place < high for place in places))
            count = count.unsqueeze(-1) * torch.tensor(numbers)
        return count.clamp_min(1)


def _lp_pool(call: Call, x: Tensor) -> Tensor:
    power = call.get("p", 2)
    windows = windows_of(call, x)
    raised = torch.abs(padded(x, windows.grown)) ** power
    total = functools.reduce(torch.add, [part for _, part in windows.slices(raised)])
    return total ** (1.0 / power)


def _global(function: Callable[..., Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: function(x, list(range(2, x.dim())), True)


def _global_lp(call: Call, x: Tensor) -> Tensor:
    power = call.get("p", 2)
    return torch.sum(torch.abs(x) ** power, list(range(2, x.dim())), True) ** (1.0 / power)


TABLE: dict[str, Any] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalMaxPool": _global(torch.amax),
    "GlobalAveragePool": _global(torch.mean),
    "GlobalLpPool": _global_lp,
}
