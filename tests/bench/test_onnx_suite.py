"""The official ONNX suite: what counts, how results are kept, and that passing tests still pass."""

import json
import os
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench import onnx_suite, onnx_table
from bench.onnx_cases import Case, cases, excluded, is_narrowed
from bench.onnx_suite import Result, run_all, run_case

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).parents[2] / onnx_table.RESULTS
SAMPLE, COMPILED = 40, 12
BARS = {("eager", "D1"): 1878, ("native", "D2"): 1545}
EXACTER = {"test_dft_inverse", "test_dft_inverse_opset19"}


def committed(mode: str, count: int) -> list[str]:
    """Some of the tests that passed, evenly spread over all of them."""
    states = json.loads(RESULTS.read_text())["modes"].get(mode, {"state": {}})["state"]
    passed = sorted(name for name, state in states.items() if state in onnx_table.PASSED)
    return passed[:: max(len(passed) // count, 1)][:count]


def test_denominators():
    counted = [case for case in cases().values() if not excluded(case)]
    assert len(cases()) == 2033
    assert len(counted) == 1916
    assert sum(not is_narrowed(case) for case in counted) == 1626


@pytest.mark.parametrize("name", committed("eager", SAMPLE))
def test_what_passed_in_pytorch(name):
    result = run_case(cases()[name], "eager")
    assert result.is_passed, result.note


@pytest.mark.parametrize("name", committed("native", COMPILED))
def test_what_passed_compiled(name):
    result = run_case(cases()[name], "native")
    assert result.is_passed, result.note


def test_the_committed_table_keeps_the_bars():
    document = json.loads(RESULTS.read_text())
    names = onnx_table.groups(document)
    for (mode, group), bar in BARS.items():
        states = Counter(document["modes"][mode]["state"][name] for name in names[group])
        assert sum(states[state] for state in onnx_table.PASSED) >= bar
        assert states["crash"] == states["hang"] == states["error"] == states["not run"] == 0
        wrong = {n for n in names[group] if document["modes"][mode]["state"][n] == "wrong"}
        assert wrong <= EXACTER, "docs/onnx.md says why these may differ, and no others"


def test_wrong_results_are_found(monkeypatch):
    ones = np.ones((3, 4, 5), np.float32)
    monkeypatch.setattr(onnx_suite, "data_of", lambda case: [([ones], [ones + 1])])
    assert run_case(cases()["test_relu"], "eager").state == "wrong"


def test_what_is_not_supported_is_named():
    result = run_case(cases()["test_string_concat"], "eager")
    assert result.state == "unsupported"
    result = run_case(cases()["test_bernoulli"], "eager")
    assert "Bernoulli at y" in result.note


def test_shapes_as_inputs_are_built_in():
    result = run_case(cases()["test_reshape_reduced_dims"], "eager")
    assert (result.state, result.note) == ("specialised", "shape")


def crash_or_hang(case: Case, mode: str) -> Result:
    if case.name == "test_abs":
        os._exit(3)
    if case.name == "test_neg":
        time.sleep(60)
    return Result(case.name, mode, "passed")


def test_crashes_and_hangs_are_results(monkeypatch):
    monkeypatch.setattr(onnx_suite, "run_case", crash_or_hang)
    monkeypatch.setattr(onnx_suite, "LIMIT_SECONDS", 5)
    monkeypatch.setattr(onnx_suite, "PATIENCE", 1)
    found: list[Result] = []
    names = ["test_add", "test_abs", "test_neg", "test_exp"]
    run_all(names, "eager", found.append, workers=1)
    states = {result.name: (result.state, result.note) for result in found}
    assert states == {
        "test_add": ("passed", ""),
        "test_abs": ("crash", "exit 3"),
        "test_neg": ("hang", "more than 5 s"),
        "test_exp": ("passed", ""),
    }


def test_other_results_are_kept(tmp_path, monkeypatch):
    written: list[Result] = []
    monkeypatch.setattr(onnx_suite, "WORK", tmp_path)
    monkeypatch.setattr(onnx_suite, "run_all", lambda names, mode, keep, workers: [
        keep(Result(name, mode, "passed")) for name in names
    ])  # fmt: skip
    monkeypatch.setattr(onnx_table, "write_table", written.extend)
    for mode in onnx_suite.MODES:
        rows = [Result("test_abs", mode, "error"), Result("test_add", mode, "wrong")]
        text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (tmp_path / f"{mode}.jsonl").write_text(text)
    onnx_suite.main(["--mode", "eager", "--only", "test_abs"])
    onnx_suite.main(["--mode", "eager", "--resume", "--again", "error"])
    states = {(row.mode, row.name): row.state for row in written}
    assert states["eager", "test_abs"] == states["eager", "test_exp"] == "passed"
    assert states["eager", "test_add"] == "wrong"
    assert states["native", "test_abs"] == "error"


def test_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_table, "RESULTS", tmp_path / "suite.json")
    monkeypatch.setattr(onnx_table, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"before\n{onnx_table.BEGIN}\nold\n{onnx_table.END}\nafter\n")
    wrong = {"test_det_2d": "wrong", "test_det_nd": "unsupported"}
    results = [Result(name, "eager", wrong.get(name, "passed")) for name in cases()]
    onnx_table.write_table(results)
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(f"before\n{onnx_table.BEGIN}\n")
    assert text.endswith(f"{onnx_table.END}\nafter\n")
    assert "| D1 | 1916 | 1914 | 0 |" in text
    assert "| Det | 1 wrong, 1 unsupported |" in text
    assert "old" not in text
