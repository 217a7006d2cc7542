"""Non-maximum suppression, for boxes known in advance."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, is_known, number


def _suppress(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    limit: Any = None,
    overlap: Any = None,
    least: Any = None,
) -> Tensor:
    """Numbers of the boxes kept, [kept, (batch, class, box)]."""
    if not is_known(boxes) or not is_known(scores):
        raise call.refuse("the size of its result depends on values computed when the model runs")
    count = 0 if limit is None else int(number(limit))
    threshold = 0.0 if overlap is None else float(number(overlap))
    floor = None if least is None else float(number(least))
    kept: list[list[int]] = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], bool(call.get("center_point_box", 0)))
        for kind in range(scores.shape[1]):
            chosen = _chosen(corners, scores[batch, kind], count, threshold, floor)
            kept += [[batch, kind, box] for box in chosen]
    return torch.tensor(kept, dtype=torch.int64).reshape([-1, 3])


def _corners(boxes: Tensor, is_centred: bool) -> Tensor:
    """[boxes, (low, left, high, right)]."""
    if is_centred:
        middle, half = boxes[:, [1, 0]], boxes[:, [3, 2]] / 2
        return torch.cat([middle - half, middle + half], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], 1)


def _chosen(
    corners: Tensor, scores: Tensor, count: int, threshold: float, floor: float | None
) -> list[int]:
    found: list[int] = []
    for box in torch.argsort(scores, descending=True, stable=True).tolist():
        if len(found) >= count or (floor is not None and scores[box] <= floor):
            break
        if all(_overlap(corners[box], corners[other]) <= threshold for other in found):
            found.append(box)
    return found


def _overlap(x: Tensor, y: Tensor) -> float:
    """Intersection over union."""
    low, high = torch.maximum(x[:2], y[:2]), torch.minimum(x[2:], y[2:])
    shared = torch.clamp_min(high - low, 0).prod()
    union = (x[2:] - x[:2]).prod() + (y[2:] - y[:2]).prod() - shared
    return float(shared / union) if union > 0 else 0.0


TABLE: dict[str, Any] = {"NonMaxSuppression": _suppress}
