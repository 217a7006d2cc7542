"""The sections of `make bench-bits`: averages, order, who beats whom, and the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import allocation, bit_budgets, bit_front, bits, sections
from effc.tables import render


def row(metric, solver, budget, value, what="divergence", model="vit"):
    return {"model": model, "metric": metric, "solver": solver, "average_bits": budget,
            "what": what, "value": value}  # fmt: skip


@pytest.fixture
def rows():
    """The plan is best at the first two budgets; a heuristic at the last."""
    found = []
    for number, budget in enumerate(allocation.BUDGETS):
        own = {(allocation.COMPARED, "ilp"): 0.1 * (1 + 9 * (number == 2)), ("sqnr", "ilp"): 2.0,
               (None, "uniform"): 0.3, (None, "first-last"): 0.4}  # fmt: skip
        for (metric, solver), value in own.items():
            found.append(row(metric, solver, budget, value))
            found.append(row(metric, solver, budget, 1 - value / 10, "accuracy"))
        for value in (0.2, 0.8):
            found.append(row(None, "random", budget, value))
            found.append(row(None, "random", budget, 1 - value / 10, "accuracy"))
    return found


def test_table_is_in_order_of_the_mean_logarithm(rows):
    text = render([allocation.page_table(rows, "vit")], 110)
    order = [line.split()[:2] for line in text.splitlines() if "%" in line]
    assert order == [
        [allocation.COMPARED, "ilp"], ["none", "uniform"], ["none", "first-last"],
        ["none", "random"], ["sqnr", "ilp"],
    ]  # fmt: skip
    assert "0.1, 99.0%" in text
    assert "0.5, 95.0%" in text


def test_verdicts(rows):
    said = list(allocation.lines_of(rows))
    assert said == [
        "vit, 2.5 bits: augmented-hessian with ilp (0.1) beats the best heuristic, uniform (0.3)",
        "vit, 3 bits: augmented-hessian with ilp (0.1) beats the best heuristic, uniform (0.3)",
        "vit, 4 bits: augmented-hessian with ilp (1) loses to the best heuristic, uniform (0.3)",
    ]


def test_page(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("docs/bits.md").write_text("# Bit allocation\n")
    bits.write("allocation", rows)
    bits.write("allocation", rows)
    page = Path("docs/bits.md").read_text()
    assert page.startswith(
        "# Bit allocation\n\n<!-- metrics and solvers -->\n## Metrics and solvers"
    )
    assert "`make bench-bits` on " in page
    assert page.count("\n- vit, ") == 3


def test_rows_measured_anew_replace_those_of_the_same_section_and_model():
    old = [{"section": "front", "model": "a", "value": 1}, {"section": "front", "model": "b"},
           {"model": "a", "value": 0}]  # fmt: skip
    new = [{"section": "front", "model": "a", "value": 2}]
    assert bits.merged(old, new) == [*old[1:], *new]


def test_every_section_can_be_imported():
    for name in sections.SECTIONS:
        section = sections.section_of(name)
        assert section.TITLE
        assert section.ABOUT
        assert list(section.lines_of([])) == []


def test_jobs_are_models_of_sections():
    assert sections.jobs_of(["front", "allocation"], []) == [
        ("allocation", ("language_model",)), ("allocation", ("vit",)),
        ("allocation", ("depthwise_cnn",)), ("allocation", ("residual_cnn",)),
        ("front", ("language_model",)),
    ]  # fmt: skip
    assert sections.jobs_of(["allocation", "eight-bits"], ["vit"]) == [
        ("eight-bits", ("vit",)), ("allocation", ("vit",)),
    ]  # fmt: skip
    for name in sections.SECTIONS:
        assert sections.section_of(name).MODELS


def test_front():
    def scored(way, label, nbytes, loss, spread=0.0):
        losses = loss + spread * np.array([1.0, -1.0, 1.0, -1.0])
        return bit_front.Scored(way, label, nbytes, 0.02, losses)

    uniform = scored(bit_front.UNIFORM, "3 bits", 3000, 1.2)
    nncf = scored(bit_front.NNCF, "ratio 0.5", 4000, 1.0)
    small = scored(bit_front.MIXED, "", 2900, 1.1, 0.05)
    large = scored(bit_front.MIXED, "", 3990, 1.05)
    found = [
        uniform.row(3000), nncf.row(4000),
        small.row(3000) | {"less_than": {bit_front.UNIFORM: small.less_than(uniform)}},
        large.row(4000) | {"less_than": {bit_front.NNCF: large.less_than(nncf)}},
    ]  # fmt: skip
    assert list(bit_front.lines_of(found)) == [
        "3.0 KB: the plan (3.0042) beats uniform, 3 bits (3.3201), by 0.1000 ± 0.0250; "
        "divergence 0.02 against 0.02",
        "4.0 KB: the plan (2.8577) loses to NNCF, ratio 0.5 (2.7183), by 0.0500 ± 0.0000; "
        "divergence 0.02 against 0.02",
    ]
    text = render(bit_front.tables_of(found), 100)
    assert "3.3201, 0.02 (3 bits)" in text
    assert "2.7183, 0.02 (ratio 0.5)" in text


def test_budgets():
    met = {"model": "m a", "subject": "m", "budgets": "--max-size 20%", "value": 0, "error": "",
           "size": 0.19, "drop": 0.005, "latency": 0.4, "seconds": 30.0}  # fmt: skip
    missed = {**met, "value": 4, "error": "effc: error: too large; the best candidate is kept"}
    cost = {"model": bit_budgets.COST, "subject": "m", "layers": 3, "metric": "sqnr",
            "seconds": 2.0, "processor_seconds": 3.0, "grown_nbytes": 200, "model_nbytes": 100,
            "value": 2.0}  # fmt: skip
    assert list(bit_budgets.lines_of([met, missed, cost])) == [
        "m --max-size 20%: effc: error: too large",
        "m: sensitivities of 3 layers by sqnr and the plan take 2 s, 3 s of processor time, and "
        "2.0 times the memory of the model",
    ]
    text = render(bit_budgets.tables_of([met, cost]), 100)
    assert "19.0%" in text
    assert "0.5%" in text
    assert {case.model for case in bit_budgets.cases()} >= {"language_model", bit_budgets.MINILM}


def test_models_in_the_order_of_the_zoo(rows):
    more = [*rows, row(None, "uniform", 3.0, 1.0, model="residual_cnn")]
    assert allocation.known_models(json.loads(json.dumps(more))) == ["residual_cnn", "vit"]
