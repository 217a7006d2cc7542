"""Operators that change shapes, join, split and create tensors."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import (
    Call,
    Sizes,
    Tensor,
    is_known,
    known,
    number,
    outside_tracing,
    sizes,
)
from effc.ir.trace.onnx.elements import element_of
from effc.ir.trace.onnx.registry import Operator
from effc.ir.trace.onnx.size_values import fold_sizes
from effc.ir.trace.onnx.sparse import dense
from effc.ir.trace.onnx.tensors import tensor_of


def same_type(call: Call, results: int = 1) -> None:
    """Results have the element type of the first input."""
    element = element_of(call.element(0))
    if element is not None and element.is_narrow:
        call.results.update(dict.fromkeys(range(results), call.element(0)))


def axes_of(call: Call, axes: Any, name: str = "axes") -> list[int] | None:
    """Axes from an attribute or, in later versions, from an input; None where neither is given."""
    if axes is not None:
        return [int(axis) for axis in sizes(axes, "its axes")]
    return call.get(name)


def reshaped(x: Tensor, wanted: list[Any], allow_zero: bool = False) -> Tensor:
    """A tensor in a shape in which 0 stands for the size it has and -1 for what is left."""
    shape = [
        x.shape[place] if isinstance(size, int) and size == 0 and not allow_zero else size
        for place, size in enumerate(wanted)
    ]
    return x.reshape(shape)


def _reshape(call: Call, x: Tensor, shape: Any = None) -> Tensor:
    same_type(call)
    wanted = call.get("shape") if shape is None else sizes(shape)
    return reshaped(x, wanted, bool(call.get("allowzero", 0)))


def _flatten(call: Call, x: Tensor) -> Tensor:
    same_type(call)
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows: Any = 1
    for size in x.shape[:axis]:
        rows = rows * size
    columns: Any = 1
    for size in x.shape[axis:]:
        columns = columns * size
    return x.reshape([rows, columns])


def _squeeze(call: Call, x: Tensor, axes: Any = None) -> Tensor:
    same_type(call)
    chosen = axes_of(call, axes)
    if chosen is None:
        return torch.squeeze(x)
    if any(x.shape[axis] != 1 for axis in chosen):
        raise ValueError(f"axes {chosen} of shape {list(x.shape)} are not all 1")
    return torch.squeeze(x, chosen)


def _unsqueeze(call: Call, x: Tensor, axes: Any = None) -> Tensor:
    same_type(call)
    chosen = axes_of(call, axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call, x: Tensor) -> Tensor:
    same_type(call)
    return x.permute(call.get("perm", list(range(x.dim()))[::-1]))


def _expand(call: Call, x: Tensor, shape: Any) -> Tensor:
    """Broadcast in both directions: a wanted size of 1 keeps what there is."""
    wanted = sizes(shape)
    missing = max(len(wanted) - x.dim(), 0)
    own: list[Any] = [1] * missing + list(x.shape)
    wanted = [1] * (len(own) - len(wanted)) + wanted
    result = [
        have if isinstance(want, int) and want == 1 else want
        for have, want in zip(own, wanted, strict=True)
    ]
    return x.expand(result)


def _tile(call: Call, x: Tensor, repeats: Any, axis: Any = None) -> Tensor:
    if call.version < 6 and axis is not None:
        times = [1] * x.dim()
        times[number(axis)] = number(repeats)
        return x.repeat(times)
    return x.repeat(sizes(repeats, "how often it repeats"))


def _concat(call: Call, *parts: Tensor) -> Tensor:
    same_type(call)
    return parts[0] if len(parts) == 1 else torch.cat(parts, call.get("axis", 1))


def _split(call: Call, x: Tensor, lengths: Any = None) -> Any:
    same_type(call, len(call.outputs))
    axis = call.get("axis", 0)
    parts = call.get("split") if lengths is None else sizes(lengths, "the lengths of its parts")
    if parts is None:
        count = call.get("num_outputs", len(call.outputs))
        size = x.shape[axis]
        length = -(-size // count)
        parts = [length] * (count - 1) + [size - length * (count - 1)]
    if isinstance(x.shape[axis], int) and sum(parts) != x.shape[axis]:
        raise ValueError(f"parts of {parts} do not make up {x.shape[axis]}")
    return tuple(torch.split(x, parts, axis))


def slice_axis(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    """A range along one axis; the step may be negative."""
    if step > 0:
        return torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    size = x.shape[axis]
    flipped = torch.flip(x, [axis])
    first: Any
    last: Any
    if isinstance(size, int):
        first, last, _ = slice(start, end, step).indices(size)
        return torch.ops.aten.slice.Tensor(flipped, axis, size - 1 - first, size - 1 - last, -step)
    first = -1 - start if start < 0 else size - 1 - torch.sym_min(start, size - 1)
    last = -1 - end if end < 0 else size - 1 - end
    return torch.ops.aten.slice.Tensor(flipped, axis, first, last, -step)


def _slice(call: Call, x: Tensor, *limits: Any) -> Tensor:
    same_type(call)
    if limits:
        given: list[Any] = [None if p is None else sizes(p, "its limits") for p in limits]
        given += [None] * (4 - len(given))
        starts, ends, axes, steps = given
    else:
        starts, ends, axes, steps = call.get("starts"), call.get("ends"), call.get("axes"), None
    axes = list(range(len(starts or []))) if axes is None else axes
    steps = [1] * len(axes) if steps is None else steps
    for start, end, axis, step in zip(starts or [], ends or [], axes, steps, strict=True):
        x = slice_axis(x, axis, start, end, step)
    return x


def _constant(call: Call) -> Any:
    attributes = call.attributes
    if "value" in attributes:
        call.results[0] = attributes["value"].data_type
        return tensor_of(attributes["value"], None)
    if "sparse_value" in attributes:
        return dense(attributes["sparse_value"], None)
    for name in ("value_float", "value_floats"):
        if name in attributes:
            return torch.tensor(attributes[name], dtype=torch.float32)
    for name in ("value_int", "value_ints"):
        if name in attributes:
            return torch.tensor(attributes[name], dtype=torch.int64)
    raise call.refuse("constants that are texts are not supported")


def _constant_of_shape(call: Call, shape: Any) -> Tensor:
    wanted = sizes(shape)
    proto = call.get("value")
    if proto is None:
        return torch.full(wanted, 0.0, dtype=torch.float32)
    with outside_tracing():
        value = tensor_of(proto, None).reshape(())
        filler = value.to(torch.float64 if value.is_floating_point() else torch.int64).item()
    call.results[0] = proto.data_type
    return torch.full(wanted, filler, dtype=value.dtype)


def _eye_like(call: Call, x: Tensor) -> Tensor:
    element = element_of(call.get("dtype", 0))
    dtype = x.dtype if element is None else element.dtype
    rows, columns = x.shape
    offset = call.get("k", 0)
    row, column = torch.arange(rows).unsqueeze(1), torch.arange(columns).unsqueeze(0)
    return (column - row == offset).to(dtype)


def _range(call: Call, start: Any, limit: Any, delta: Any) -> Tensor:
    parts = [number(part, "the limits of a range") for part in (start, limit, delta)]
    dtypes = [part.dtype for part in (start, limit, delta) if isinstance(part, torch.Tensor)]
    dtype = torch.int64 if any(isinstance(p, Sizes) for p in (start, limit, delta)) else dtypes[0]
    if dtype in (torch.float16, torch.bfloat16):
        return torch.arange(*parts, dtype=torch.float32).to(dtype)
    return torch.arange(*parts, dtype=dtype)


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    block = call.get("blocksize", 1)
    batch, channels, *space = x.shape
    rank = len(space)
    depth = channels // block**rank
    if call.get("mode", "DCR") == "CRD":
        x = x.reshape([batch, depth, *[block] * rank, *space])
        first, blocks = 1, list(range(2, 2 + rank))
    else:
        x = x.reshape([batch, *[block] * rank, depth, *space])
        first, blocks = 1 + rank, list(range(1, 1 + rank))
    pairs = [dim for place in range(rank) for dim in (2 + rank + place, blocks[place])]
    x = x.permute([0, first, *pairs])
    return x.reshape([batch, depth, *[size * block for size in space]])


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    block = call.get("blocksize", 1)
    batch, channels, *space = x.shape
    rank = len(space)
    split = [part for size in space for part in (size // block, block)]
    x = x.reshape([batch, channels, *split])
    outer, inner = list(range(2, 2 + 2 * rank, 2)), list(range(3, 3 + 2 * rank, 2))
    order = [1, *inner] if call.get("mode", "DCR") == "CRD" else [*inner, 1]
    x = x.permute([0, *order, *outer])
    return x.reshape([batch, channels * block**rank, *[size // block for size in space]])


def _dropout(call: Call, x: Tensor, ratio: Any = None, training: Any = None) -> Any:
    is_training = training is not None and bool(number(training, "whether it is training"))
    share = number(ratio, "its ratio") if ratio is not None else call.get("ratio", 0.5)
    if is_training and share != 0:
        raise call.refuse("dropout while training is random")
    if len(call.outputs) < 2:
        return x
    dtype = torch.bool if call.version >= 10 else x.dtype
    return x, torch.ones_like(x, dtype=dtype)


def _trilu(call: Call, x: Tensor, diagonal: Any = None) -> Tensor:
    offset = 0 if diagonal is None else number(diagonal, "its diagonal")
    return torch.triu(x, offset) if call.get("upper", 1) else torch.tril(x, offset)


def _center_crop_pad(call: Call, x: Tensor, shape: Any) -> Tensor:
    axes = call.get("axes", list(range(x.dim())))
    for axis, size in zip(axes, sizes(shape), strict=True):
        axis, have = axis % x.dim(), x.shape[axis]
        if have > size:
            start = (have - size) // 2
            x = torch.ops.aten.slice.Tensor(x, axis, start, start + size)
        elif have < size:
            before = (size - have) // 2
            pads = [0, 0] * (x.dim() - 1 - axis) + [before, size - have - before]
            x = F.pad(x, pads)
    return x


def _identity(call: Call, x: Any) -> Any:
    same_type(call)
    return x


def _measure(call: Call, x: Tensor) -> Any:
    return fold_sizes(call, [x])


def known_indices(values: list[int]) -> Tensor:
    """A constant vector of positions."""
    with outside_tracing():
        return torch.tensor(values, dtype=torch.int64)


def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    mask = known(condition, "which elements it keeps")
    axis = call.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    with outside_tracing():
        chosen = torch.nonzero(mask.reshape(-1)).reshape(-1)
    return torch.index_select(x, axis, chosen)


def _nonzero(call: Call, x: Tensor) -> Tensor:
    if not is_known(x):
        raise call.refuse("the size of its result depends on values computed when the model runs")
    return torch.nonzero(x).t().contiguous()


TABLE: dict[str, Any] = {
    "Reshape": Operator(_reshape, (1,)),
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": Operator(_expand, (1,)),
    "Tile": Operator(_tile, (1,)),
    "Concat": _concat,
    "Split": Operator(_split, (1,)),
    "Slice": Operator(_slice, (1, 2, 3, 4)),
    "Constant": _constant,
    "ConstantOfShape": Operator(_constant_of_shape, (0,)),
    "EyeLike": _eye_like,
    "Range": Operator(_range, (0, 1, 2)),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Dropout": _dropout,
    "Trilu": _trilu,
    "CenterCropPad": Operator(_center_crop_pad, (1,)),
    "Identity": _identity,
    "Shape": _measure,
    "Size": _measure,
    "Compress": _compress,
    "NonZero": _nonzero,
}
