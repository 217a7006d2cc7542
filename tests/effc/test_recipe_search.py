"""The search over recipes: what is tried next, what is kept, what is shipped."""

import json
from pathlib import Path

import numpy as np
import pytest

import effc
from effc import recipe_search
from effc.passes.bits.quantize import Quantize
from effc.passes.registry import parse_pipeline
from effc.recipe_search import History
from effc.recipe_space import KNOBS, candidates

OUTLIER = """compile cli_models:with_outlier --threads 1 --calib cli_models:batches
    --eval cli_models:labelled_outlier --metric top1""".split()


def history(tmp_path):
    lines = (tmp_path / "cache" / recipe_search.FILE).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_space_holds_every_recipe_once():
    found = list(candidates())
    assert len({one.passes for one in found}) == len(found)
    assert len({tuple(one.features) for one in found}) == len(found)
    assert len(found) == 5 * 2 * 2 * 2 * 4 + 2 * 4
    for one in found[:: len(found) // 7]:
        (step,) = parse_pipeline(one.passes)
        assert isinstance(step, Quantize)
        assert step.observer == one.settings["observer"]
        assert step.skip_last == (one.settings["edges"] in ("last", "both"))
    assert sum(found[0].features) == len(KNOBS)


def test_a_search_finds_a_recipe_that_works_and_keeps_what_it_learned(run, clock, tmp_path):
    run(*OUTLIER, "-o", "plain").assert_succeeds()
    plain = effc.Artifact("plain").report["result"]["quality"]
    ran = run(*OUTLIER, "-o", "out", "--search", "6").assert_succeeds()
    artifact = effc.Artifact("out")
    assert artifact.report["result"]["quality"] >= plain
    assert "6 recipes tried now, 6 known of this model, 3 built; the best is quantize" in ran.out
    rows = history(tmp_path)
    assert len(rows) == 6
    assert len({tuple(row["values"]) for row in rows}) == 6
    assert artifact.recipe.search == 0
    assert artifact.recipe.passes.startswith("quantize")
    assert len([t for t in artifact.report["trials"] if t["what"].startswith("quantize")]) == 3
    ran = run(*OUTLIER, "-o", "again", "--search", "6").assert_succeeds()
    assert "0 recipes tried now, 6 known of this model" in ran.out
    run("compile", "-c", "out/recipe.yaml", "-o", "repeated").assert_succeeds()
    same = [Path(folder, "model.so").stat().st_size for folder in ("out", "repeated")]
    assert same[0] == same[1]


def test_trees_learn_from_other_models(run, clock, tmp_path, monkeypatch):
    """What was bad elsewhere is tried last here: dynamic activations were all that worked."""
    rows = []
    for candidate in candidates():
        is_good = candidate.settings["activations"] == "dynamic"
        rows.append({"version": effc.__version__, "key": "other", "quality": 1.0,
                     "values": list(candidate.values), "graph": [0.5] * 11,
                     "badness": 1e-4 if is_good else 1.0})  # fmt: skip
    path = tmp_path / "cache" / recipe_search.FILE
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut off')
    run(*OUTLIER, "-o", "out", "--search", "2").assert_succeeds()
    found = [row for row in History.open(path).rows if row["key"] != "other"]
    assert [row["values"][list(KNOBS).index("activations")] for row in found] == ["dynamic"] * 2


def test_damaged_histories_are_left_out(tmp_path):
    path = tmp_path / "h.jsonl"
    good = {"version": effc.__version__, "key": "k", "values": list(next(candidates()).values),
            "graph": [0.0], "quality": 1.0, "badness": 0.5}  # fmt: skip
    bad = [{**good, "version": "0"}, {**good, "values": ["a"]}, {**good, "badness": None}, []]
    path.write_text("\n".join(json.dumps(row) for row in [good, *bad]) + "\nnonsense")
    found = History.open(path)
    assert found.rows == [good]
    found.add({**good, "badness": float(np.float64(0.25))})
    path.write_text(path.read_text() + '{"cut off')
    found.add(good)
    assert [row["badness"] for row in History.open(path).rows] == [0.5, 0.25, 0.5]
    assert History.open(tmp_path / "none").rows == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search", "3", "-p", "quantize{observer=mse}"], "--search chooses the pipeline"),
        (["--search", "3"], "--search needs evaluation data; give it with --eval"),
    ],
)
def test_what_cannot_be_searched(run, clock, words, message):
    plain = "compile cli_models:classifier --threads 1 --calib cli_models:batches -o out".split()
    run(*plain, *words).assert_fails(2, message)
