"""Channels and formats in one plan, from the command line: budgets, what is said, exit codes."""

import json
import re
from pathlib import Path

import effc

PLAIN = "compile cli_models:classifier --threads 1 --calib cli_models:batches".split()
MIXED = ["-p", "allocate-channels{bits=float|8 metric=output-divergence align=8}", "-o", "out"]
JUDGED = ["--eval", "cli_models:labelled", "--metric", "top1"]


def result():
    return json.loads(Path("out/report.json").read_text())


def test_size_is_kept_by_both(run, clock):
    plain = [*PLAIN, "-o", "whole", "-p", "remove-dead"]
    run(*plain).assert_succeeds()
    budget = effc.Artifact("whole").size_nbytes - 13000
    run(*PLAIN, *MIXED, "--max-size", f"{budget}B").assert_succeeds()
    assert effc.Artifact("out").size_nbytes <= budget
    (row,) = result()["passes"]
    groups = {group["name"]: group for group in row["notes"]["groups"]}
    assert groups.keys() == {"first", "second"}
    assert any(group["kept"] < group["size"] for group in groups.values())
    assert "w8a8" in {note["format"] for note in row["notes"]["layers"].values()}
    said = run("explain", "out").assert_succeeds().out
    assert "channels kept" in said
    for name, group in groups.items():
        line = rf"^ *{name} +neurons +{group['size']} +{group['kept']} "
        assert re.search(line, said, re.MULTILINE), said
    facts = run("explain", "out", "first", "--json").json
    assert [group["name"] for group in facts["groups"]] == ["first"]


def test_quality_is_kept(run, clock):
    run(*PLAIN, *MIXED, *JUDGED, "--max-drop", "20pt").assert_succeeds()
    report = result()
    drop = report["baseline"]["quality"] - report["result"]["quality"]
    assert drop <= 0.2
    assert report["result"]["size_nbytes"] < report["baseline"]["size_nbytes"]
    tried = [trial for trial in report["trials"] if "predicted_loss" in trial]
    allowed = report["baseline"]["quality"] - 0.2
    met = [trial["size_nbytes"] for trial in tried if trial["quality"] >= allowed]
    assert report["result"]["size_nbytes"] == min(met)


def test_size_that_no_plan_has(run, clock):
    ran = run(*PLAIN, *MIXED, "--max-size", "2KB")
    error = ran.assert_fails(4, "size budget of 2,000 bytes not met", "kept in out-candidate")
    assert re.search(r"no plan has at most .* bytes \(--max-size 2KB\): the nearest", error)
