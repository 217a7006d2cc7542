"""Static or dynamic: what calibration data decides, and what happens without."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from effc.ir.errors import DataError, UsageError
from effc.ir.program import Program, attribute
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.quantize import Quantize
from effc.passes.calibrate import collect
from effc.passes.manager import PassManager

QUANTIZE = "effc.quantize.default"
DYNAMIC = "effc.quantize_dynamic.default"


class Outliers(nn.Module):
    """One token in fifteen becomes a hundred times as large, between two linears."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.calm = nn.Linear(16, 16)
        self.wild = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.calm(x)
        return self.wild(y * (1 + 100.0 * (x[..., :1] > 1.5)))


def test_auto_goes_dynamic_where_one_scale_is_too_coarse(
    batches: Any, run: Any, error_db: Any
) -> None:
    program = traced(Outliers(), torch.randn(2, 9, 16), dynamic={"x.0": "batch"})
    data = batches((8, 9, 16))
    after, notes = run(program, data)
    assert notes["calm"]["activation"].startswith("static uint8")
    assert notes["calm"]["sqnr_db"] > 32
    assert notes["wild"]["activation"] == "dynamic uint8 per token"
    assert notes["wild"]["sqnr_db"] > notes["wild"]["static_sqnr_db"]
    assert operators(after)[QUANTIZE] == operators(after)[DYNAMIC] == 1
    static, _ = run(program, data, activations="static")
    calm = {"x": torch.randn(8, 9, 16, generator=torch.Generator().manual_seed(5)).clamp(max=1)}
    assert error_db(program, after, calm) > 35
    assert error_db(program, static, calm) < 15


def test_predicted_ratios_are_those_measured(feed: Program, batches: Any, run: Any) -> None:
    data = batches((4, 50, 16))
    _, notes = run(feed, data, activations="static", observer="minmax")
    with torch.no_grad():
        rows = torch.cat([functional.layer_norm(b["x"], (16,)).reshape(-1, 16) for b in data])
    low, high = float(rows.min()), float(rows.max())
    step = (high - low) / 255
    error = (torch.round(rows / step) * step - rows).square().mean()
    typical = rows.double().square().mean(1).log().mean().exp()
    measured = 10 * np.log10(float(typical / error))
    assert notes["left"]["sqnr_db"] == pytest.approx(measured, abs=0.15)


def test_the_second_compile_reads_the_statistics(
    feed: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: Any
) -> None:
    ran: list[int] = []
    original = collect.Collection._measure

    def counted(self: collect.Collection, number: int, batch: Any) -> Any:
        ran.append(number)
        return original(self, number, batch)

    monkeypatch.setattr(collect.Collection, "_measure", counted)
    ctx = PassContext(calibration=batches((2, 5, 16)), store=tmp_path)
    for observer in ("minmax", "mse"):
        PassManager((Quantize(observer=observer),)).run(feed, ctx)
    assert ran == [1, 2, 3]


def test_static_needs_calibration_data(feed: Program, run: Any) -> None:
    with pytest.raises(UsageError) as caught:
        run(feed, activations="static")
    text = "activations=static needs calibration data for the method forward"
    assert str(caught.value) == text


def test_bad_calibration_data_is_an_error(feed: Program, run: Any) -> None:
    with pytest.raises(DataError, match="calibration data holds no batches"):
        run(feed, [])


def test_dynamic_reads_no_data(feed: Program, run: Any) -> None:
    after, _ = run(feed, [], activations="dynamic")
    assert operators(after)[DYNAMIC] == 2


def test_methods_without_calibration_are_dynamic_and_share_codes(
    feed: Program, batches: Any, run: Any
) -> None:
    program = feed.clone()
    program.methods["decode"] = feed.clone().forward
    program.signatures["decode"], program.examples["decode"] = feed.signature, ()
    after, _ = run(program, batches((2, 5, 16)))
    found = [attribute(module, "left.weight_codes") for module in after.methods.values()]
    assert found[0].data_ptr() == found[1].data_ptr()
    assert operators(after, "decode")[DYNAMIC] == 2
