"""Every way to round a part's weight to a format, by name."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch

from effc.ir.errors import DataError
from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.second_moments import Moments, grouped
from effc.passes.bits.rounding.awq import Awq
from effc.passes.bits.rounding.clipping import Clipped
from effc.passes.bits.rounding.gptq import Gptq
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.bits.rounding.hqq import Hqq

Rounding = Literal["nearest", "clipped", "hqq", "awq", "gptq", "gptq-act-order"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
Round = Callable[[Matrix, Matrix], Matrix]


def needs_moments(rounding: str) -> bool:
    """Whether a way to round looks at calibration data."""
    return rounding in ("awq", "gptq", "gptq-act-order")


def rounded_weight(part: Part, form: Form, rounding: str, moments: Moments | None) -> torch.Tensor:
    """A part's weight as it is left by rounding: float32 of its shape.

    Tables, whose rows are looked up, and layers whose second moments did not fit in memory are
    rounded with those on the diagonal only, which for `gptq` is to the nearest.

    Args:
        part: The weight.
        form: Not float.
        rounding: How.
        moments: Of what the weight multiplies; None for a table.

    Raises:
        DataError: If the second moments cannot be used.
    """
    if rounding == "nearest":
        return form.restored(part.weight)
    whole = _whole(moments, part.weight)
    rows = grouped(part.weight, len(whole))
    way = _way(form, rounding)
    found = [way(weight, moment) for weight, moment in zip(rows, whole, strict=True)]
    result = torch.from_numpy(np.concatenate(found)).to(torch.float32)
    if not bool(torch.isfinite(result).all()):
        raise DataError(f"rounding {part.name} by {rounding} gives NaN or infinite values")
    return result.reshape(part.weight.shape)


def _way(form: Form, rounding: str) -> Round:
    if rounding == "clipped":
        return lambda weight, _: Clipped(form.bits, form.group).rounded(weight)
    if rounding == "hqq":
        return lambda weight, _: Hqq(form.bits, form.group).rounded(weight)
    if rounding == "awq":
        return Awq(form.bits, form.group).rounded
    return Gptq(form.bits, form.group, act_order=rounding == "gptq-act-order").rounded


def _whole(moments: Moments | None, weight: torch.Tensor) -> Matrix:
    """Second moments as matrices: [groups, terms, terms]."""
    if moments is None:
        return np.eye(weight[0].numel())[None]
    if moments.whole.ndim == 3:
        return moments.whole
    return np.stack([np.diag(diagonal) for diagonal in moments.whole])
