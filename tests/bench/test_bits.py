"""The page of `make bench-bits`: averages, order, and who beats whom."""

import json
from pathlib import Path

import pytest

from bench import bits
from effc.tables import render


def row(metric, solver, budget, value, what="divergence", model="vit"):
    return {"model": model, "metric": metric, "solver": solver, "average_bits": budget,
            "what": what, "value": value}  # fmt: skip


@pytest.fixture
def rows():
    """The plan is best at the first two budgets; a heuristic at the last."""
    found = []
    for number, budget in enumerate(bits.BUDGETS):
        own = {(bits.COMPARED, "ilp"): 0.1 * (1 + 9 * (number == 2)), ("sqnr", "ilp"): 2.0,
               (None, "uniform"): 0.3, (None, "first-last"): 0.4}  # fmt: skip
        for (metric, solver), value in own.items():
            found.append(row(metric, solver, budget, value))
            found.append(row(metric, solver, budget, 1 - value / 10, "accuracy"))
        for value in (0.2, 0.8):
            found.append(row(None, "random", budget, value))
            found.append(row(None, "random", budget, 1 - value / 10, "accuracy"))
    return found


def test_table_is_in_order_of_the_mean_logarithm(rows):
    text = render([bits.page_table(rows, "vit")], 110)
    order = [line.split()[:2] for line in text.splitlines() if "%" in line]
    assert order == [
        ["output-divergence", "ilp"], ["none", "uniform"], ["none", "first-last"],
        ["none", "random"], ["sqnr", "ilp"],
    ]  # fmt: skip
    assert "0.1, 99.0%" in text
    assert "0.5, 95.0%" in text


def test_verdicts(rows):
    said = list(bits.verdicts(rows))
    assert said == [
        "vit, 2.5 bits: output-divergence with ilp (0.1) beats the best heuristic, uniform (0.3)",
        "vit, 3 bits: output-divergence with ilp (0.1) beats the best heuristic, uniform (0.3)",
        "vit, 4 bits: output-divergence with ilp (1) loses to the best heuristic, uniform (0.3)",
    ]


def test_page(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    bits.write_page([bits.page_table(rows, "vit")], list(bits.verdicts(rows)))
    page = Path("docs/bits.md").read_text()
    assert page.startswith("# Bit allocation\n\n`make bench-bits` on ")
    assert page.count("\n- vit, ") == 3


def test_models_in_the_order_of_the_zoo(rows):
    more = [*rows, row(None, "uniform", 3.0, 1.0, model="residual_cnn")]
    assert bits.known_models(json.loads(json.dumps(more))) == ["residual_cnn", "vit"]
