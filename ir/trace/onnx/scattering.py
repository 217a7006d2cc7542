"""Operators that write elements by index into a copy of a tensor."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, sizes
from effc.ir.trace.onnx.indexing import from_start, linear_index
from effc.ir.trace.onnx.shape import known_indices

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    places = from_start(indices, x.shape[axis])
    reduction = call.get("reduction", "none")
    if reduction == "none":
        return torch.scatter(x, axis, places, updates)
    return torch.scatter_reduce(x, axis, places, updates, REDUCTIONS[reduction])


def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Rows of a tensor seen as a matrix are replaced or combined."""
    depth = indices.shape[-1]
    leading, rest = list(x.shape[:depth]), list(x.shape[depth:])
    rows = linear_index(indices, leading).reshape(-1)
    count: Any = 1
    for size in leading:
        count = count * size
    width: Any = 1
    for size in rest:
        width = width * size
    flat = x.reshape([count, width])
    places = rows.unsqueeze(1).expand([rows.shape[0], width])
    values = updates.reshape([rows.shape[0], width])
    reduction = call.get("reduction", "none")
    if reduction == "none":
        result = torch.scatter(flat, 0, places, values)
    else:
        result = torch.scatter_reduce(flat, 0, places, values, REDUCTIONS[reduction])
    return result.reshape(x.shape)


def _tensor_scatter(call: Call, past: Tensor, update: Tensor, starts: Any = None) -> Tensor:
    """Write a block into a cache at a place of its own per sample."""
    axis = call.get("axis", -2) % past.dim()
    length, room = update.shape[axis], past.shape[axis]
    steps = torch.arange(length).reshape([-1, *[1] * (past.dim() - 1 - axis)])
    places = steps
    if starts is not None:
        places = steps + starts.to(torch.int64).reshape([-1, *[1] * (past.dim() - 1)])
    if call.get("mode", "linear") == "circular":
        places = torch.remainder(places, room)
    return torch.scatter(past, axis, places.expand(update.shape), update)


def _max_unpool(call: Call, x: Tensor, indices: Tensor, shape: Any = None) -> Tensor:
    kernel = call.get("kernel_shape")
    rank = len(kernel)
    strides, pads = call.get("strides", [1] * rank), call.get("pads", [0] * 2 * rank)
    natural = [
        (x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[rank + i] + kernel[i]
        for i in range(rank)
    ]
    wanted = natural if shape is None else sizes(shape)[2:]
    batch, channels = x.shape[:2]
    count = 1
    for size in natural:
        count *= size
    flat = torch.zeros([batch * channels * count], dtype=x.dtype)
    filled = torch.scatter(flat, 0, indices.reshape(-1), x.reshape(-1))
    image = filled.reshape([batch, channels, *natural])
    for place, (have, want) in enumerate(zip(natural, wanted, strict=True)):
        if want > have:
            pad = [0, 0] * (rank - 1 - place) + [0, want - have]
            image = torch.ops.aten.constant_pad_nd.default(image, pad, 0)
    return image


def _col2im(call: Call, columns: Tensor, image: Any, block: Any) -> Tensor:
    """Sum the columns of every kernel position back into an image.

    Every position of the kernel reads its column where the image has one and a zero elsewhere.
    """
    space, kernel = sizes(image), sizes(block)
    rank = len(space)
    dilations = call.get("dilations", [1] * rank)
    pads = call.get("pads", [0] * 2 * rank)
    strides = call.get("strides", [1] * rank)
    steps = [
        (space[i] + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    batch = columns.shape[0]
    count = 1
    for size in kernel:
        count *= size
    x = columns.reshape([batch, -1, count, columns.shape[-1]])
    x = torch.ops.aten.constant_pad_nd.default(x, [0, 1], 0)
    total: Any = None
    for position in range(count):
        places = _column_places(position, space, kernel, dilations, pads, strides, steps)
        part = torch.index_select(x[:, :, position], 2, known_indices(places))
        total = part if total is None else total + part
    return total.reshape([batch, -1, *space])


def _column_places(
    position: int,
    space: list[int],
    kernel: list[int],
    dilations: list[int],
    pads: list[int],
    strides: list[int],
    steps: list[int],
) -> list[int]:
    """Which column every pixel reads for one kernel position; the one past the last is zero."""
    rank, missing = len(space), 1
    for size in steps:
        missing *= size
    offset, rest = [0] * rank, position
    for axis in reversed(range(rank)):
        rest, offset[axis] = divmod(rest, kernel[axis])
    places = [0]
    for axis in range(rank):
        along = []
        for pixel in range(space[axis]):
            start = pixel + pads[axis] - offset[axis] * dilations[axis]
            step, left = divmod(start, strides[axis])
            along.append(step if left == 0 and 0 <= step < steps[axis] else -1)
        places = [
            missing if place == missing or step < 0 else place * steps[axis] + step
            for place in places
            for step in along
        ]
    return places


TABLE: dict[str, Any] = {
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "MaxUnpool": _max_unpool,
    "Col2Im": _col2im,
}
