"""Statistics of the values of a model, and second moments."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.calibrate import statistics
from effc.passes.calibrate.statistics import statistics_of


def test_values_are_those_of_the_model(program: Program, counted: Any, plain: Any) -> None:
    found = statistics_of(program, PassContext(calibration=counted()), {"x", "relu", "mean"})
    model, inputs = plain(), [batch["x"] for batch in counted()]
    with torch.no_grad():
        maps = [model.stem(x).relu() for x in inputs]
        rows = torch.cat([one.mean((2, 3)) for one in maps]).double()
    whole = torch.cat([one.movedim(1, -1).reshape(-1, 4) for one in maps]).double()
    assert found["relu"].maximum == float(whole.max())
    np.testing.assert_allclose(found["relu"].channel_mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["mean"].channel_mean_square, (rows**2).mean(0), rtol=1e-6)
    assert found["x"].channel_max.shape == (2,)
    assert found["x"].slices == sum(len(x) for x in inputs)


def test_moments_are_products_of_the_inputs(program: Program, counted: Any, plain: Any) -> None:
    ctx = PassContext(calibration=counted())
    found = statistics_of(program, ctx, {"mean", "relu"}, moments=True)
    with torch.no_grad():
        rows = torch.cat([plain().stem(b["x"]).relu().mean((2, 3)) for b in counted()]).double()
    np.testing.assert_allclose(found["mean"].moment, rows.T @ rows, rtol=1e-5)
    assert found["relu"].moment is None
    assert [(r.source, r.reason) for r in found.refusals] == [
        ("relu", "second moments are kept for inputs of linears and convolutions only")
    ]


def test_moments_are_refused_beyond_the_memory_for_them(
    program: Program, monkeypatch: pytest.MonkeyPatch, counted: Any
) -> None:
    monkeypatch.setattr(statistics, "MOMENT_NBYTES", 4 * 4 * 8 - 1)
    found = statistics_of(program, PassContext(calibration=counted()), {"mean"}, moments=True)
    assert found["mean"].moment is None
    reason = "second moments of 4 features exceed the memory left for them"
    assert [refusal.reason for refusal in found.refusals] == [reason]


def test_moments_complete_what_is_stored(
    program: Program, tmp_path: Path, runs: list[int], counted: Any
) -> None:
    ctx = PassContext(calibration=counted(), store=tmp_path)
    assert statistics_of(program, ctx, {"mean"})["mean"].moment is None
    assert statistics_of(program, ctx, {"mean"}, moments=True)["mean"].moment is not None
    assert runs == [*range(1, 8), *range(1, 8)]
    assert statistics_of(program, ctx, {"mean"}, moments=True)["mean"].moment is not None
    assert len(runs) == 14


def test_the_store_does_not_grow_with_the_data(
    program: Program, tmp_path: Path, counted: Any
) -> None:
    sizes = []
    for count in (1, 20):
        ctx = PassContext(calibration=counted(count), store=tmp_path / str(count))
        statistics_of(program, ctx, {"x", "relu", "mean"})
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(count)).rglob("*.*")))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_progress_is_reported(program: Program, counted: Any) -> None:
    seen: list[tuple[str, int, int]] = []
    data = list(counted(3))
    ctx = PassContext(calibration=data, progress=lambda *step: seen.append(step))
    statistics_of(program, ctx, {"relu"})
    assert seen == [("calibrate", 1, 3), ("calibrate", 2, 3), ("calibrate", 3, 3)]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": (1, 2)},
        {"groups": 2, "padding": 1}, {"groups": 4, "bias": False},
    ],
)  # fmt: skip
def test_moments_of_windows(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, (3, 2), **options)
    batches = [{"input": torch.randn(n, 4, 7, 6)} for n in (2, 3)]
    program = traced(conv, batches[0]["input"], dynamic={"input.0": "batch"})
    name = program.forward.graph.find_nodes(op="placeholder")[-1].name
    found = statistics_of(program, PassContext(calibration=batches), {name}, moments=True)
    (moment,) = found[name].windows.values()
    weight = conv.weight.detach().double().reshape(conv.groups, -1, moment.shape[1])
    energies = torch.einsum("gok,gkl,gol->go", weight, torch.from_numpy(moment), weight)
    bare = torch.nn.Conv2d(4, 8, (3, 2), **options | {"bias": False})
    bare.weight = conv.weight
    with torch.no_grad():
        outputs = [bare.double()(batch["input"].double()) for batch in batches]
    expected = sum(output.square().sum((0, 2, 3)) for output in outputs)
    torch.testing.assert_close(energies.flatten(), expected, rtol=1e-5, atol=1e-5)
    again = type(found[name]).from_arrays(found[name].arrays())
    np.testing.assert_array_equal(next(iter(again.windows.values())), moment)
