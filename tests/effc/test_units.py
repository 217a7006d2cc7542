"""Numbers, tables and progress as people read them."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from effc import tables, units
from effc.backends.measure import Latency
from effc.budgets import DropBudget, SizeBudget
from effc.documents import json_text
from effc.ir.errors import BudgetError, DataError, SlowerError, UsageError
from effc.metrics import Metric, called, metric_of, perplexity
from effc.metrics import sqnr as metric_sqnr
from effc.pages import page
from effc.progress import progress_on_stderr
from effc.verdict import judge, seems_slower


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (units.size_text(0), "0 B"), (units.size_text(999), "999 B"),
        (units.size_text(1500), "1.5 KB"), (units.size_text(22_900_000), "22.9 MB"),
        (units.size_text(3.21e9), "3.21 GB"), (units.time_text(2.5e-6), "2.5 µs"),
        (units.time_text(0.00124), "1.24 ms"), (units.time_text(2.0), "2.00 s"),
        (units.range_text(1e-3, 2e-3), "1.00 to 2.00 ms"),
        (units.range_text(5e-4, 2e-3), "500.0 µs to 2.00 ms"),
        (units.speed_text(2.0, 1.0), "2.00x faster"), (units.speed_text(1.0, 1.5), "1.50x slower"),
        (units.share_text(1, 4), "25%"), (units.share_text(1, 0), ""),
        (units.decibel_text(26.54), "26.5 dB"), (units.decibel_text(None), "exact"),
        (units.metric_text(0.5), "0.5000"), (units.metric_text(None), ""),
        (units.change_text(0.9, 0.8, "higher"), "-0.1000 worse"),
        (units.change_text(2.0, 2.5, "lower"), "+0.5000 worse"),
        (units.change_text(2.0, 1.5, "lower"), "-0.5000 better"),
        (units.change_text(1.0, 1.0, "lower"), "same"),
        (units.change_text(1.0, 2.0, None), "+1.0000"),
        (units.change_text(None, 2.0, "lower"), ""),
    ],
)  # fmt: skip
def test_texts(found, expected):
    assert found == expected


class Candidate:
    """What the verdict looks at."""

    def __init__(self, seconds, nbytes=100, quality=None, low=None):
        low = seconds if low is None else low
        self.latency = Latency(seconds, low, seconds, 1)
        self.size_nbytes, self.quality, self.is_changed = nbytes, quality, True
        self.passes = []


METRIC = Metric("top1", len)


class Wanted:
    """What a user asked for."""

    metric, latency = METRIC, None

    def __init__(self, drop, size):
        self.drop, self.size = drop, size


@pytest.mark.parametrize(
    ("median", "low", "slower"),
    [(1.0, 1.0, False), (1.019, 1.019, False), (1.03, 1.03, True), (1.5, 1.0, False),
     (1.0, 1.5, False), (0.5, 0.5, False)],
)  # fmt: skip
def test_slower_needs_median_and_fastest_tenth(median, low, slower):
    assert seems_slower(Candidate(median, low=low), Candidate(1.0)) is slower


@pytest.mark.parametrize(
    ("nbytes", "quality", "seconds", "kind", "words"),
    [
        (51, 0.9, 1.0, BudgetError, ["50 bytes", "51 bytes", "51.0% of the baseline"]),
        (50, 0.889, 1.0, BudgetError, ["1pt", "0.8890", "0.9000", "loses 0.0110", "is 0.0100"]),
        (50, 0.9, 2.0, SlowerError, ["2.00 s against 1.00 s"]),
        (51, 0.5, 2.0, BudgetError, ["size budget", "quality budget", "slower"]),
    ],
)
def test_verdict(nbytes, quality, seconds, kind, words):
    wanted = Wanted(DropBudget.parse("1pt"), SizeBudget.parse("50%"))
    verdict = judge(Candidate(seconds, nbytes, quality), Candidate(1.0, 100, 0.9), wanted)
    error = verdict.error("kept in x")
    assert type(error) is kind
    assert all(word in str(error) for word in words)
    kept = judge(Candidate(0.5, 50, 0.8901), Candidate(1.0, 100, 0.9), wanted)
    assert kept.problems == ()


def test_json_has_no_nan():
    content = {"a": float("nan"), "b": [np.float32("inf"), np.int64(3), Path("x")], 3: (1.5,)}
    found = json.loads(json_text(content), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, 3, "x"], "3": [1.5]}


def test_progress_without_a_terminal(capsys):
    with progress_on_stderr() as progress:
        progress("build", 0, 1)
        progress("calibrate", 1, 0)
        progress("calibrate", 2, 0)
        progress("build", 1, 1)
        progress("build", 1, 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" s  ")[1] for line in lines] == ["build ...", "calibrate ...", "build done"]


def test_progress_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_on_stderr() as progress:
        progress("build", 0, 1)
        progress("measure", 3, 15)
        progress("calibrate", 7, 0)
        progress("build", 1, 1)
    assert "3/15" in screen.getvalue()
    assert "calibrate" in screen.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_of_any_width(small_artifact, width):
    report = json.loads((small_artifact / "report.json").read_text())
    text = tables.render(tables.report_tables(report), width)
    assert max(map(len, text.splitlines())) <= width
    assert "size on disk" in text or width < 80
    assert text == "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_names_are_text_not_markup(small_artifact):
    report = json.loads((small_artifact / "report.json").read_text())
    report["model"]["name"] = "<b>[red]net</b>"
    report["profile"] = [{"family": "rows", "source": "[bold]x<i>", "seconds": 0.0}]
    report["verdict"]["problems"] = ["<script>alert(1)</script>"]
    text = tables.render(tables.report_tables(report), 100)
    assert "[bold]x<i>" in text
    assert "<b>[red]net</b>" in text
    html = page(report)
    assert "<script" not in html
    assert "&lt;b&gt;[red]net" in html


def test_a_report_without_times_and_scores_can_be_drawn(small_artifact):
    report = json.loads((small_artifact / "report.json").read_text())
    report["profile"], report["baseline"]["latency"], report["passes"] = [], None, []
    assert "size on disk" in tables.render(tables.report_tables(report), 80)
    assert "Where the time goes" not in page(report)


def outputs(*rows):
    return {"y": np.array(rows, np.float32)}


def test_top1():
    results = [(outputs([0, 1], [3, 2]), np.array([1, 1])), (outputs([5, 1]), np.array([0]))]
    assert metric_of("top1")(results) == {"top1": pytest.approx(2 / 3)}


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    labels = np.array([[1, -100, 4]])
    assert perplexity([({"y": np.zeros((1, 3, 7), np.float32)}, labels)]) == pytest.approx(7)
    sure = np.full((1, 3, 7), -1e4, np.float32)
    sure[0, [0, 2], [1, 4]] = 0
    assert perplexity([({"y": sure}, labels)]) == pytest.approx(1)


def test_metrics_that_compare():
    found, exact = outputs([1.0, 0.0]), outputs([1.0, 1.0])
    assert metric_of("cosine")([(found, exact)])["cosine"] == pytest.approx(2**-0.5)
    assert metric_sqnr([(outputs([1.0, 0.9]), exact)]) == pytest.approx(
        10 * np.log10(2 / 0.01), 1e-4
    )
    assert metric_sqnr([(exact, exact)]) == float("inf")


@pytest.mark.parametrize("name", ["top1", "perplexity", "cosine", "sqnr"])
def test_metrics_of_nothing_are_refused(name):
    with pytest.raises(DataError, match="nothing to measure"):
        metric_of(name)([])


@pytest.mark.parametrize("name", ["top1", "perplexity"])
def test_metrics_need_labels(name):
    with pytest.raises(DataError, match="labels"):
        metric_of(name)([(outputs([[1.0, 2.0]]), None)])


@pytest.mark.parametrize("found", [float("nan"), "good", None, {}, {"a": float("nan")}, [1, 2]])
def test_what_is_no_number_is_refused(found):
    with pytest.raises(DataError, match="metric mine"):
        called("mine", lambda results: found, [])


def test_the_direction_of_a_users_metric():
    def loss(results):
        return 1.0

    assert metric_of(loss).better == "higher"
    loss.better = "lower"
    assert metric_of(loss).better == "lower"
    loss.better = "sideways"
    with pytest.raises(UsageError, match="'sideways'"):
        metric_of(loss)
