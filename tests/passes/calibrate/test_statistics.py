"""The Statistics store: right, kept, resumed after a kill, and clear about bad data."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import DataError
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import traced
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.calibrate import collect, statistics
from effc.passes.calibrate.statistics import Statistics, statistics_of

BATCHES, CHECKPOINT = 7, 2


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


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu().mean((2, 3)))


class Counted:
    """Data that counts its batches and can be stopped at one, like a killed run."""

    def __init__(self, count: int = BATCHES, stop_at: int | None = None) -> None:
        self.count, self.stop_at, self.given = count, stop_at, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for number in range(self.count):
            if number == self.stop_at:
                raise KeyboardInterrupt
            self.given += 1
            yield {"x": torch.randn(2 + number % 2, 2, 6, 6, generator=generator) * (1 + number)}

    def fingerprint(self) -> str:
        return "counted"


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Plain(), torch.randn(2, 2, 6, 6), dynamic={"x.0": "batch"})


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "CHECKPOINT_BATCHES", CHECKPOINT)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every batch the model runs on."""
    seen: list[int] = []
    original = collect.Collection._measure

    def counted(self: collect.Collection, number: int, batch: Any) -> Any:
        seen.append(number)
        return original(self, number, batch)

    monkeypatch.setattr(collect.Collection, "_measure", counted)
    return seen


def arrays(found: Statistics) -> dict[str, np.ndarray]:
    return {
        f"{name} {part}": array
        for name, value in found.values.items()
        for part, array in value.arrays().items()
    }


def assert_identical(one: Statistics, other: Statistics) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


def test_values_are_those_of_the_model(program: Program) -> None:
    found = statistics_of(program, PassContext(calibration=Counted()), {"x", "relu", "mean"})
    model, inputs = Plain(), [batch["x"] for batch in Counted()]
    with torch.no_grad():
        maps = [model.stem(x).relu() for x in inputs]
        rows = torch.cat([one.mean((2, 3)) for one in maps]).double()
    whole = torch.cat([one.movedim(1, -1).reshape(-1, 4) for one in maps]).double()
    assert found["relu"].maximum == float(whole.max())
    np.testing.assert_allclose(found["relu"].channel_mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["mean"].channel_mean_square, (rows**2).mean(0), rtol=1e-6)
    assert found["x"].channel_max.shape == (2,)
    assert found["x"].slices == sum(len(x) for x in inputs)


def test_a_second_run_reads_the_store(program: Program, tmp_path: Path, runs: list[int]) -> None:
    first = statistics_of(program, PassContext(calibration=Counted(), store=tmp_path), {"relu"})
    assert runs == list(range(1, BATCHES + 1))
    data = Counted()
    second = statistics_of(program, PassContext(calibration=data, store=tmp_path), {"relu"})
    assert len(runs) == BATCHES
    assert data.given == 0
    assert_identical(first, second)


def test_data_without_a_fingerprint_is_hashed(
    program: Program, tmp_path: Path, runs: list[int]
) -> None:
    data = [{"x": torch.ones(2, 2, 6, 6)}, ({"x": np.zeros((3, 2, 6, 6), np.float32)}, "label")]
    for _ in range(2):
        statistics_of(program, PassContext(calibration=data, store=tmp_path), {"relu"})
    assert len(runs) == 2
    data[0]["x"][0, 0, 0, 0] = 2
    statistics_of(program, PassContext(calibration=data, store=tmp_path), {"relu"})
    assert len(runs) == 4


def test_only_what_is_missing_is_measured(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = PassContext(calibration=Counted(), store=tmp_path)
    statistics_of(program, ctx, {"relu"})
    measured: list[set[int]] = []
    run = collect.Collection.run

    def noted(self: collect.Collection) -> Any:
        measured.append(set(self.layouts))
        return run(self)

    monkeypatch.setattr(collect.Collection, "run", noted)
    both = statistics_of(program, ctx, {"relu", "mean"})
    assert [len(one) for one in measured] == [1]
    assert_identical(
        both, statistics_of(program, PassContext(calibration=Counted()), {"relu", "mean"})
    )


def test_another_program_has_its_own_statistics(tmp_path: Path) -> None:
    folders = []
    for scale in (1.0, 2.0):
        model = Plain()
        with torch.no_grad():
            model.stem.weight *= scale
        made = traced(model, torch.randn(2, 2, 6, 6), dynamic={"x.0": "batch"})
        statistics_of(made, PassContext(calibration=Counted(), store=tmp_path), {"relu"})
        folders.append(fingerprint(made))
    names = [path.name for path in (tmp_path / "statistics").iterdir()]
    assert sorted(name.split("-")[0] for name in names) == sorted(folders)


@pytest.mark.parametrize("stop_at", [1, 2, 5, 6])
def test_an_interrupted_run_goes_on(
    program: Program, tmp_path: Path, runs: list[int], stop_at: int
) -> None:
    ctx = PassContext(calibration=Counted(stop_at=stop_at), store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        statistics_of(program, ctx, {"relu", "mean"})
    runs.clear()
    ctx = PassContext(calibration=Counted(), store=tmp_path)
    resumed = statistics_of(program, ctx, {"relu", "mean"})
    kept = stop_at // CHECKPOINT * CHECKPOINT
    assert runs == list(range(kept + 1, BATCHES + 1))
    assert_identical(
        resumed, statistics_of(program, PassContext(calibration=Counted()), {"relu", "mean"})
    )
    assert not list(tmp_path.rglob("progress*"))


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import test_statistics as t
t.collect.CHECKPOINT_BATCHES = t.CHECKPOINT
class Killed(t.Counted):
    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 5:
                os.kill(os.getpid(), 9)
            yield batch
program = t.traced(t.Plain(), t.torch.randn(2, 2, 6, 6), dynamic={{"x.0": "batch"}})
ctx = t.PassContext(calibration=Killed(), store=Path({store!r}))
t.statistics_of(program, ctx, {{"relu"}})
"""


def test_a_killed_process_goes_on(program: Program, tmp_path: Path, runs: list[int]) -> None:
    folder = str(Path(__file__).parent)
    script = KILLED.format(folder=folder, store=str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=dict(os.environ)
    )
    assert ended.returncode == -9, ended.stderr.decode()
    ctx = PassContext(calibration=Counted(), store=tmp_path)
    resumed = statistics_of(program, ctx, {"relu"})
    assert runs == [5, 6, 7]
    assert_identical(resumed, statistics_of(program, PassContext(calibration=Counted()), {"relu"}))


def test_progress_towards_other_values_is_not_used(
    program: Program, tmp_path: Path, runs: list[int]
) -> None:
    ctx = PassContext(calibration=Counted(stop_at=5), store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        statistics_of(program, ctx, {"relu"})
    runs.clear()
    statistics_of(program, PassContext(calibration=Counted(), store=tmp_path), {"mean"})
    assert runs == list(range(1, BATCHES + 1))


def flip_a_byte(folder: Path) -> None:
    (path,) = folder.glob("statistics-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut_the_index(folder: Path) -> None:
    path = folder / "statistics.json"
    path.write_text(path.read_text()[:-20])


def take_the_arrays(folder: Path) -> None:
    (path,) = folder.glob("statistics-*.safetensors")
    path.unlink()


def put_a_foreign_one(folder: Path) -> None:
    path = folder / "statistics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "another"}))


def put_a_list(folder: Path) -> None:
    (folder / "statistics.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_the_index, take_the_arrays, put_a_foreign_one, put_a_list]
)
def test_what_is_damaged_is_made_again(
    program: Program, tmp_path: Path, runs: list[int], damage
) -> None:
    ctx = PassContext(calibration=Counted(), store=tmp_path)
    first = statistics_of(program, ctx, {"relu"})
    (folder,) = (tmp_path / "statistics").iterdir()
    damage(folder)
    second = statistics_of(program, ctx, {"relu"})
    assert len(runs) == 2 * BATCHES
    assert_identical(first, second)
    assert len(list(folder.iterdir())) == 2


def test_moments_are_products_of_the_inputs(program: Program) -> None:
    ctx = PassContext(calibration=Counted())
    found = statistics_of(program, ctx, {"mean", "relu"}, moments=True)
    with torch.no_grad():
        rows = torch.cat([Plain().stem(b["x"]).relu().mean((2, 3)) for b in Counted()]).double()
    np.testing.assert_allclose(found["mean"].moment, rows.T @ rows, rtol=1e-5)
    assert found["relu"].moment is None
    assert [(r.source, r.reason) for r in found.refusals] == [
        ("relu", "second moments are kept for inputs of linears only")
    ]


def test_moments_are_refused_beyond_the_memory_for_them(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOMENT_NBYTES", 4 * 4 * 8 - 1)
    found = statistics_of(program, PassContext(calibration=Counted()), {"mean"}, moments=True)
    assert found["mean"].moment is None
    reason = "second moments of 4 features exceed the memory left for them"
    assert [refusal.reason for refusal in found.refusals] == [reason]


def test_moments_complete_what_is_stored(program: Program, tmp_path: Path, runs: list[int]) -> None:
    ctx = PassContext(calibration=Counted(), store=tmp_path)
    assert statistics_of(program, ctx, {"mean"})["mean"].moment is None
    assert statistics_of(program, ctx, {"mean"}, moments=True)["mean"].moment is not None
    assert len(runs) == 2 * BATCHES
    assert statistics_of(program, ctx, {"mean"}, moments=True)["mean"].moment is not None
    assert len(runs) == 2 * BATCHES


def test_the_store_does_not_grow_with_the_data(program: Program, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 20):
        ctx = PassContext(calibration=Counted(count), store=tmp_path / str(count))
        statistics_of(program, ctx, {"x", "relu", "mean"})
        sizes.append(sum(path.stat().st_size for path in (tmp_path / str(count)).rglob("*.*")))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_progress_is_reported(program: Program) -> None:
    seen: list[tuple[str, int, int]] = []
    data = list(Counted(3))
    ctx = PassContext(calibration=data, progress=lambda *step: seen.append(step))
    statistics_of(program, ctx, {"relu"})
    assert seen == [("calibrate", 1, 3), ("calibrate", 2, 3), ("calibrate", 3, 3)]


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
