"""`effc opt`: look between passes, find the one that breaks; and `--json` everywhere."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import effc
from effc.ir.trace import open_model

MODEL = "cli_models:classifier"
PIPELINE = "canonicalize,cli_models:ScaleBias{factor=3},quantize{activations=dynamic}"
OPT = ["opt", MODEL, "-p", PIPELINE]


def test_dump_writes_what_changed(run):
    run(*OPT, "--dump", "texts", "-o", "out.pt2").assert_succeeds()
    names = sorted(path.name for path in Path("texts").iterdir())
    assert names[-2:] == ["01-scale-bias.txt", "02-quantize.txt"]
    assert "effc.quantize" not in Path("texts/01-scale-bias.txt").read_text()
    assert "effc.quantize" in Path("texts/02-quantize.txt").read_text()
    assert run("opt", MODEL, "-p", PIPELINE).out == Path("texts/02-quantize.txt").read_text()


def test_print_after(run, models):
    ran = run(*OPT, "--print-after", "scale-bias").assert_succeeds()
    assert "effc.quantize" not in ran.out
    assert "aten.linear.default" in ran.out
    run(*OPT, "--print-after", "fold-norms").assert_fails(2, "matches nothing", "scale-bias")


def test_compare_shows_where_the_error_comes_from(run):
    rows = run(*OPT, "--compare", "--json").assert_succeeds().json
    measured = [row["measured"].get("output_error", {}).get("output") for row in rows]
    assert [row["text"] for row in rows][1] == "cli_models:ScaleBias{factor=3.0}"
    assert measured[1]["sqnr_db"] < 30  # another bias is a large change
    assert measured[2]["max"] > 0
    table = run(*OPT, "--compare").assert_succeeds().err
    assert f"{measured[1]['sqnr_db']:.1f} dB" in table


@pytest.mark.parametrize(("limit", "texts"), [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_limit(run, limit, texts):
    assert len(run(*OPT, "--limit", limit, "--json").assert_succeeds().json) == texts


def test_the_result_can_be_compiled(run, clock, models):
    run(*OPT, "-o", "out.pt2").assert_succeeds()
    x = models.rows(4, 1)
    expected = open_model("out.pt2").run({"x": torch.from_numpy(x)})["output"].numpy()
    run("compile", "out.pt2", "-p", "", "--threads", "1", "-o", "out").assert_succeeds()
    np.testing.assert_allclose(effc.load("out")(x), expected, rtol=1e-3, atol=1e-3)
    module, _ = models.classifier()
    tripled = module(torch.from_numpy(x)).detach().numpy() + 2 * module.last.bias.detach().numpy()
    assert np.abs(expected - tripled).max() < 0.1 * np.abs(tripled).max()


def test_an_unwritable_result(run):
    run(*OPT, "-o", "no/such/out.pt2").assert_fails(2, "no/such/out.pt2")
    Path("file").write_text("")
    run(*OPT, "--dump", "file").assert_fails(2, "file")


def test_bisect_finds_the_pass(run, models):
    tripled = 3 * models.classifier()[0].last.bias.detach().numpy()
    check = """import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
sys.exit(any(archive.read(name) == bytes.fromhex("WANT") for name in archive.namelist()))"""
    Path("check.py").write_text(check.replace("WANT", tripled.tobytes().hex()))
    command = f"{shlex.quote(sys.executable)} check.py"
    ran = run(*OPT, "--bisect", command).assert_succeeds()
    assert ran.out == (
        "the command fails first after cli_models:ScaleBias{factor=3.0} (pass 2 of 3)\n"
    )
    assert run(*OPT, "--bisect", "true").out == "the command succeeds after every pass\n"
    run(*OPT, "--bisect", "false").assert_fails(2, "fails before any pass ran")
    with_place = run(*OPT, "--bisect", "test -s {} && true").assert_succeeds()
    assert "succeeds" in with_place.out


def test_every_json_is_one_document(run, small_artifact, clock):
    data = ["--data", "cli_models:labelled"]
    commands = {
        "compile": ["compile", MODEL, "-o", "out", "--threads", "1"],
        "plan": ["compile", MODEL, "--dry-run"],
        "inspect": ["inspect", MODEL],
        "opt": [*OPT, "--dump", "texts"],
        "bench": ["bench", small_artifact, "--rounds", "1"],
        "eval": ["eval", small_artifact, *data, "--metric", "sqnr"],
        "model": ["eval", MODEL, *data],
        "explain": ["explain", small_artifact],
        "report": ["report", small_artifact, "--html", "page.html"],
        "targets": ["targets"],
        "passes": ["passes"],
    }
    found = {name: run(*words, "--json").assert_succeeds().json for name, words in commands.items()}
    assert found["compile"]["result"]["check"]["output"]["sqnr_db"] != "Infinity"
    assert [row["text"] for row in found["plan"]][-1] == "quantize"
    assert found["inspect"]["parameters"] == 32 * 48 + 48 + 48 * 48 + 48 + 48 * 8 + 8
    assert found["inspect"]["macs"] == 32 * 48 + 48 * 48 + 48 * 8
    assert found["eval"]["value"] > 20
    assert found["model"]["value"] == 1.0
    assert found["report"] == json.loads((small_artifact / "report.json").read_text())
    assert found["bench"]["rows"][0]["runs"] > 1


def test_a_json_of_an_error_is_still_one_document(run):
    ran = run("inspect", "cli_models:spectrum", "--json")
    missing = ran.json["target"]["unsupported"]
    assert {entry["op"].split(".")[1] for entry in missing} >= {"special_bessel_j0"}
    ran.assert_fails(3, "2 operator(s)")


def test_dry_run_builds_nothing(run):
    words = ["compile", MODEL, "--dry-run", "--calib", "cli_models:batches", "-o", "out"]
    text = run(*words).assert_succeeds().out
    assert list(Path.cwd().iterdir()) == []
    assert re.search(r"second +int8 per channel +static uint8", text)


def test_inspect_for_people(run):
    text = run("inspect", MODEL).assert_succeeds().out
    assert "input    x: f32[1, 32]" in text
    assert "3 x aten.linear.default" in text
    assert "4,328 parameters, 17.3 KB" in text
    assert text.endswith("target native: all supported\n")
