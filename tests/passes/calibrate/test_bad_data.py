"""Calibration data that cannot be used: one line that says why."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import DataError
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.calibrate.statistics import statistics_of

IMAGE = np.zeros((2, 2, 6, 6), np.float32)
BAD_DATA: list[tuple[Any, str]] = [
    (None, "statistics need calibration data"),
    ([], "calibration data holds no batches"),
    (
        iter([{"x": IMAGE}]),
        "calibration data can be read only once; give a list, or an object whose __iter__ "
        "starts anew",
    ),
    ([IMAGE], "calibration batch 1 is a ndarray, expected a dict by input name"),
    ([{"x": IMAGE}, 5], "calibration batch 2 is a int, expected a dict by input name"),
    ([{"y": IMAGE}], "calibration batch 1: missing input x; the model takes x"),
    ([{"x": IMAGE, "y": IMAGE}], "calibration batch 1: unknown input y; the model takes x"),
    (
        [{"x": IMAGE.astype(np.float64)}],
        "calibration batch 1: input x has dtype float64, expected float32",
    ),
    (
        [{"x": IMAGE[:, :1]}],
        "calibration batch 1: input x has shape [2, 1, 6, 6], expected x: f32[batch, 2, 6, 6]",
    ),
    ([{"x": IMAGE + np.nan}], "calibration batch 1: input x holds NaN or infinite values"),
    (
        [{"x": IMAGE}, {"x": IMAGE + np.inf}],
        "calibration batch 2: input x holds NaN or infinite values",
    ),
    (
        [{"x": ["a"]}],
        "calibration batch 1: input x is not an array of numbers: can't convert np.ndarray of "
        "type numpy.str_.",
    ),
]


class Logarithm(nn.Module):
    """NaN for negative numbers, infinite for 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), Logarithm(), nn.Hardtanh())
        self.sign = Logarithm()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.sign(x + 10).sum()


@pytest.mark.parametrize(("data", "message"), BAD_DATA)
def test_bad_data(program: Program, data: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        statistics_of(program, PassContext(calibration=data), {"relu"})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lowest", "layer"),
    [
        (-20.0, "the model computes NaN, first in sign"),
        (-5.0, "the model computes infinite values, first in body.1"),
    ],
)
def test_the_first_layer_that_goes_wrong_is_named(lowest: float, layer: str) -> None:
    program = traced(Fragile(), torch.ones(2, 6), dynamic={"x.0": "batch"})
    data = [{"x": torch.ones(2, 6)}, {"x": torch.full((2, 6), lowest)}]
    names = {
        node.name for node in program.forward.graph.nodes if op_name(node) == "aten.log.default"
    }
    with pytest.raises(DataError) as caught:
        statistics_of(program, PassContext(calibration=data), names)
    assert str(caught.value) == f"calibration batch 2: {layer} (aten.log.default)"
