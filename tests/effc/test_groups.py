"""`effc inspect --groups` and `--graph`: what pruning could cut."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]
MODEL = "cli_models:classifier"


def test_groups_are_listed(run: Run) -> None:
    lines = run("inspect", MODEL, "--groups").assert_succeeds().out.splitlines()
    words = [line.split() for line in lines[lines.index("what pruning could cut") :]]
    rows = {row[0]: row[1:] for row in words if row and row[0] in ("first", "second", "last")}
    each = str(32 + 1 + 48)
    assert rows["first"][:4] == ["neurons", "48", each, str(32 + 48)]
    assert rows["last"][:2] == ["neurons", "8"]
    assert "refused: it reaches the output" in " ".join(rows["last"])


def test_groups_as_json(run: Run) -> None:
    facts = json.loads(run("inspect", MODEL, "--groups", "--json").assert_succeeds().out)
    first, _, last = facts["groups"]
    assert [one["name"] for one in first["weights"]] == [
        "first.weight", "first.bias", "second.weight"]  # fmt: skip
    assert [one["role"] for one in first["weights"]] == ["out", "", "in"]
    assert last["refused"]
    assert "macs_each" not in last


def test_the_drawing_has_a_line_per_weight_and_a_rail_per_group(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "groups.svg"
    run("inspect", MODEL, "--graph", place).assert_succeeds()
    root = ET.fromstring(place.read_text())
    space = "{http://www.w3.org/2000/svg}"
    texts = [one.text for one in root.iter(f"{space}text")]
    assert {"first.weight", "second.weight", "last.weight"} <= set(texts)
    titles = [one.text for one in root.iter(f"{space}title")]
    assert titles[:2] == ["first: 48 neurons", "second: 48 neurons"]
    assert titles[2] is not None
    assert titles[2].startswith("last: 8 neurons; it reaches the output")
    page = tmp_path / "groups.html"
    run("inspect", MODEL, "--graph", page).assert_succeeds()
    assert page.read_text().startswith("<!doctype html>")
    assert "<svg" in page.read_text()


def test_a_drawing_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    error = run("inspect", MODEL, "--graph", "groups.png").assert_fails(2)
    assert "--graph groups.png: write to a file that ends in .svg or .html" in error
    error = run("inspect", MODEL, "--graph", tmp_path / "no" / "groups.svg").assert_fails(2)
    assert f"there is no folder {tmp_path / 'no'}" in error


def test_a_pruned_model_is_compiled_and_checked(run: Run) -> None:
    pruning = "prune-channels{ratio=0.25 align=4},remove-dead"
    ran = run("compile", MODEL, "-o", "out", "-p", pruning, "--keep-going", "--json")
    report = ran.assert_succeeds().json
    assert report["result"]["size_nbytes"] < report["baseline"]["size_nbytes"]
    (notes,) = [row["notes"] for row in report["passes"] if row["text"].startswith("prune")]
    assert [(row["name"], row["kept"]) for row in notes["groups"]] == [
        ("first", 36), ("second", 36)]  # fmt: skip
    run("run", "out").assert_succeeds()


def test_pruning_that_leaves_nothing(run: Run) -> None:
    error = run("compile", MODEL, "-o", "out", "-p", "prune-channels{ratio=1}").assert_fails(2)
    assert error == ("prune-channels: ratio=1 leaves nothing; take one between 0 and 1")
    assert not Path("out").exists()
