"""The comparison of default and tuned schedules: what is compiled, shown, counted as missed."""

from pathlib import Path

import pytest

from bench import tuning
from bench.compiling import Compiled
from bench.models import SUITE


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Records what would be compiled."""
    calls = []

    def compile_artifact(model, folder, *options, database=None):
        calls.append((folder.name, options, database))
        return Compiled(folder, 1.0, 1)

    monkeypatch.setattr(tuning, "compile_artifact", compile_artifact)
    monkeypatch.setattr(tuning, "WORK", tmp_path)
    return calls


def test_only_the_tuned_build_sees_the_database(compiled, tmp_path):
    entry = next(entry for entry in SUITE if entry.name == "MobileNetV2")
    assert tuning._compiled(entry, "int8", "default", 0).name == "MobileNetV2-int8-default"
    assert tuning._compiled(entry, "float32", "tuned", 30).name == "MobileNetV2-float32-tuned"
    (_, default, none), (_, tuned, own) = compiled
    assert "--tune" not in default
    assert none == tmp_path / "no-tuning.jsonl"
    assert not none.exists()
    assert tuned[-2:] == ("--tune", "30")
    assert own is None
    assert "--calib" in default
    assert "--calib" not in tuned


def rows(model: str, default: float, tuned: float) -> list[tuning.Row]:
    return [
        {"model": model, "note": "int8", "variant": name, "value": value, "kernels": 3,
         "ratio": value / tuned}
        for name, value in (("default", default), ("tuned", tuned))
    ]  # fmt: skip


def test_the_table_and_what_is_missed(monkeypatch, tmp_path, capsys):
    found = {"ResNet-18": rows("ResNet-18", 1.05, 1.0), "Other": rows("Other", 1.2, 1.0)}
    monkeypatch.setattr(tuning, "measure_tuned", lambda entry, *rest: found[entry.name])
    monkeypatch.setattr(tuning, "RESULT", tmp_path / "bench" / "tuning.json")
    first = SUITE[0]
    assert tuning.compare_tuned([first], ["int8"], 5) == 0
    assert "missed" not in capsys.readouterr().out
    other = type(first)("Other", None, "images")
    assert tuning.compare_tuned([first, other], ["int8"], 5) == 1
    out = capsys.readouterr().out
    assert "missed: Other, int8: tuned is 1.20x faster" in out
    lines = [line.split() for line in out.splitlines() if line.split()[:1] == ["ResNet-18"]]
    assert lines == [["ResNet-18", "int8", "1.05", "s", "1.00", "s", "3", "1.050"]]
    assert Path(tmp_path / "bench" / "tuning.json").exists()
