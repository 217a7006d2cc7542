"""The page of `make bench-prune`: tables, who beats whom, what time was gained."""

import json
from pathlib import Path

import pytest

from bench import pruning
from effc.tables import render


def row(way, cut, value, peer=None, what="accuracy", divergence=1.0, **more):
    better = "higher" if what == "accuracy" else "lower"
    return {"model": "vit" if what == "accuracy" else "resnet18", "what": what, "way": way,
            "peer": peer, "cut": cut, "value": value, "better": better, "left": 1 - cut,
            "divergence": divergence, **more}  # fmt: skip


@pytest.fixture
def rows():
    return [
        row("whole", 0.0, 0.99), row("l2", 0.5, 0.4), row("fisher", 0.5, 0.9, divergence=0.1),
        row("flap", 0.5, 0.95), row("recovered", 0.5, 0.98, divergence=0.0),
        row("l2", 0.5, 0.8, "Torch-Pruning"), row("l2", 0.75, 0.3),
        row("lamp", 0.75, 0.5, "Torch-Pruning"),
        row("l2", 0.5, 0.6, what="latency", whole=1.0),
        row("l2", 0.3, 0.8, what="latency", whole=1.0),
    ]  # fmt: skip


def test_a_table_per_model_with_a_column_per_cut(rows):
    (made,) = pruning.page_tables(rows)
    lines = render([made], 100).splitlines()
    assert lines[0] == "vit: accuracy after the cut, 99.0% before"
    words = [line.split() for line in lines]
    assert ["by", "importance", "50%", "cut", "75%", "cut"] in words
    assert ["effc", "l2", "40.0%", "30.0%"] in words
    assert ["Torch-Pruning", "lamp", "50.0%"] in words


def test_verdicts(rows):
    assert list(pruning.verdicts(rows)) == [
        "vit, 50% cut: fisher (90.0%) beats Torch-Pruning l2 (80.0%)",
        "vit, 50% cut, at most 1 min of recovery: 98.0%, -1.0 points against the whole",
        "vit, 75% cut: l2 (30.0%) does not beat Torch-Pruning lamp (50.0%)",
        "resnet18, 50.0% of the multiply-adds cut: 1.67x faster, 80% of the reduction, "
        "less than 85%",
        "resnet18, 30.0% of the multiply-adds cut: 1.25x faster, 67% of the reduction, "
        "less than 85%",
    ]


def test_a_row_takes_the_place_of_an_earlier_one(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "RESULT", tmp_path / "prune.json")
    for one in (*rows, row("l2", 0.5, 0.7)):
        pruning.keep(one)
    stored = pruning.stored()
    assert len(stored) == len(rows)
    assert stored[-1]["value"] == 0.7
    assert "environment" in json.loads((tmp_path / "prune.json").read_text())


def test_page(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    pruning.write_page(pruning.page_tables(rows), list(pruning.verdicts(rows)))
    page = Path("docs/pruning.md").read_text()
    assert page.startswith("# Pruning\n\n`make bench-prune` on ")
    assert page.count("\n- vit, ") == 3
    assert "it gets neither a repair nor fine-tuning" in page


def built(way, value, nbytes, seconds):
    return {"model": "vit", "what": "front", "way": way, "peer": None, "cut": 0.0, "value": value,
            "better": "higher", "nbytes": nbytes, "seconds": seconds}  # fmt: skip


def test_fronts():
    rows = [
        built("whole", 0.99, 1000, 8e-3), built("int8", 0.98, 300, 4e-3),
        built("prune", 0.97, 500, 5e-3), built("prune + int8", 0.98, 200, 4e-3),
    ]  # fmt: skip
    assert list(pruning.front_verdicts(rows)) == [
        f"vit, quality against {what}: prune + int8 is at least as good and smaller, or better "
        f"and no larger, than {count} of 2 builds of either alone"
        for what, count in (("size", 2), ("latency", 1))
    ]
    (made,) = pruning.front_tables(rows)
    lines = [line.split() for line in render([made], 100).splitlines()]
    assert ["int8", "0.98", "300", "B", "4.00", "ms", "latency"] in lines
    assert ["prune", "0.97", "500", "B", "5.00", "ms"] in lines
    assert ["whole", "0.99", "1.0", "KB", "8.00", "ms", "size,", "latency"] in lines
