"""The store: read again, resumed after a kill, made again when damaged."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effc.ir.program import Program
from effc.ir.testing import traced
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.calibrate import collect
from effc.passes.calibrate.statistics import statistics_of

BATCHES, CHECKPOINT = 7, 2
KILLED = """
import os
from pathlib import Path
from runpy import run_path
import torch
from effc.passes.base import PassContext
from effc.passes.calibrate import collect
from effc.passes.calibrate.statistics import statistics_of
samples = run_path({conftest!r})
collect.CHECKPOINT_BATCHES = samples["CHECKPOINT"]
class Killed(samples["Counted"]):
    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 5:
                os.kill(os.getpid(), 9)
            yield batch
torch.set_num_threads(1)
program = samples["traced"](samples["Plain"](), torch.randn(2, 2, 6, 6), dynamic={{"x.0": "batch"}})
statistics_of(program, PassContext(calibration=Killed(), store=Path({store!r})), {{"relu"}})
"""


def test_a_second_run_reads_the_store(
    program: Program, tmp_path: Path, runs: list[int], counted: Any, identical: Any
) -> None:
    first = statistics_of(program, PassContext(calibration=counted(), store=tmp_path), {"relu"})
    assert runs == list(range(1, BATCHES + 1))
    data = counted()
    second = statistics_of(program, PassContext(calibration=data, store=tmp_path), {"relu"})
    assert len(runs) == BATCHES
    assert data.given == 0
    identical(first, second)


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
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Any, identical: Any
) -> None:
    ctx = PassContext(calibration=counted(), store=tmp_path)
    statistics_of(program, ctx, {"relu"})
    measured: list[set[int]] = []
    run = collect.Collection.run

    def noted(self: collect.Collection) -> Any:
        measured.append(set(self.layouts))
        return run(self)

    monkeypatch.setattr(collect.Collection, "run", noted)
    both = statistics_of(program, ctx, {"relu", "mean"})
    assert [len(one) for one in measured] == [1]
    identical(both, statistics_of(program, PassContext(calibration=counted()), {"relu", "mean"}))


def test_another_program_has_its_own_statistics(tmp_path: Path, counted: Any, plain: Any) -> None:
    folders = []
    for scale in (1.0, 2.0):
        model = plain()
        with torch.no_grad():
            model.stem.weight *= scale
        made = traced(model, torch.randn(2, 2, 6, 6), dynamic={"x.0": "batch"})
        statistics_of(made, PassContext(calibration=counted(), store=tmp_path), {"relu"})
        folders.append(fingerprint(made))
    names = [path.name for path in (tmp_path / "statistics").iterdir()]
    assert sorted(name.split("-")[0] for name in names) == sorted(folders)


@pytest.mark.parametrize("stop_at", [1, 2, 5, 6])
def test_an_interrupted_run_goes_on(
    program: Program, tmp_path: Path, runs: list[int], stop_at: int, counted: Any, identical: Any
) -> None:
    ctx = PassContext(calibration=counted(stop_at=stop_at), store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        statistics_of(program, ctx, {"relu", "mean"})
    runs.clear()
    ctx = PassContext(calibration=counted(), store=tmp_path)
    resumed = statistics_of(program, ctx, {"relu", "mean"})
    kept = stop_at // CHECKPOINT * CHECKPOINT
    assert runs == list(range(kept + 1, BATCHES + 1))
    identical(resumed, statistics_of(program, PassContext(calibration=counted()), {"relu", "mean"}))
    assert not list(tmp_path.rglob("progress*"))


def test_a_killed_process_goes_on(
    program: Program, tmp_path: Path, runs: list[int], counted: Any, identical: Any
) -> None:
    conftest = str(Path(__file__).with_name("conftest.py"))
    script = KILLED.format(conftest=conftest, store=str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=dict(os.environ)
    )
    assert ended.returncode == -9, ended.stderr.decode()
    ctx = PassContext(calibration=counted(), store=tmp_path)
    resumed = statistics_of(program, ctx, {"relu"})
    assert runs == [5, 6, 7]
    identical(resumed, statistics_of(program, PassContext(calibration=counted()), {"relu"}))


def test_progress_towards_other_values_is_not_used(
    program: Program, tmp_path: Path, runs: list[int], counted: Any
) -> None:
    ctx = PassContext(calibration=counted(stop_at=5), store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        statistics_of(program, ctx, {"relu"})
    runs.clear()
    statistics_of(program, PassContext(calibration=counted(), store=tmp_path), {"mean"})
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
    program: Program, tmp_path: Path, runs: list[int], damage, counted: Any, identical: Any
) -> None:
    ctx = PassContext(calibration=counted(), store=tmp_path)
    first = statistics_of(program, ctx, {"relu"})
    (folder,) = (tmp_path / "statistics").iterdir()
    damage(folder)
    second = statistics_of(program, ctx, {"relu"})
    assert len(runs) == 2 * BATCHES
    identical(first, second)
    assert len(list(folder.iterdir())) == 2
