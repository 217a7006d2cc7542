"""Pruning, 8 bits and both under size budgets: quality, size and latency of what is built."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.table import Table

import effc
from bench.pruning_subjects import INPUT, WINDOW, Row
from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.tables import table
from effc.units import size_text, time_text

FRONT = "front"
BOTH, ALONE = "prune + int8", ("prune", "int8")
PASSES = {
    "whole": "remove-dead",
    "int8": "quantize",
    "prune": "allocate-channels{bits=float}",
    BOTH: "allocate-channels{bits=float|8}",
}
SMALLER = {  # of the whole artifact, below what 8 bits alone make of it
    "residual_cnn": (0.35, 0.25, 0.2),
    "depthwise_cnn": (0.52, 0.47),
    "language_model": (0.24, 0.2, 0.15),
}
BUDGETED = {
    "residual_cnn": ("zoo.digits:residual_cnn", "zoo.digits", "top1", INPUT),
    "depthwise_cnn": ("zoo.digits:depthwise_cnn", "zoo.digits", "top1", INPUT),
    "language_model": (
        "zoo.language_model:language_model",
        "zoo.language_model",
        "zoo.language_model:perplexity",
        WINDOW,
    ),
}


def front_rows(name: str, built: Path) -> Iterator[Row]:
    """A row per way and budget; what was built before is only measured again, all in turns."""
    model, data, metric, inputs = BUDGETED[name]
    folders, runs = {}, {}
    budgets = {"prune": (0.7, 0.5, 0.35), BOTH: SMALLER[name]}
    for way, passes in PASSES.items():
        for budget in budgets.get(way, (1.0,)):
            folder = built / f"{name}-{way.replace(' ', '')}-{budget:g}"
            if not folder.exists():
                effc.compile(
                    model, passes=passes, out=folder, inputs=[inputs], keep_going=True,
                    calibration=f"{data}:calibration", evaluation=f"{data}:evaluation",
                    metric=metric, max_size=budget if budget < 1 else None,
                )  # fmt: skip
            folders[way, budget] = folder
            sample, _ = Artifact(folder).sample()
            runs[f"{way} {budget}"] = partial(effc.load(folder).run, sample)
    found = interleaved(runs)
    for (way, budget), folder in folders.items():
        report = Artifact(folder).report
        yield {
            "model": name, "what": FRONT, "way": way, "peer": None, "cut": 1 - budget,
            "value": report["result"]["quality"], "unit": "1",
            "better": report["metric"]["better"], "nbytes": Artifact(folder).size_nbytes,
            "seconds": found[f"{way} {budget}"].median,
        }  # fmt: skip


def front_tables(rows: Sequence[Row]) -> list[Table]:
    """A table per model, the largest first."""
    made = []
    numbers = ("quality", "size", "latency")
    for model, own in _by_model(rows).items():
        one = table(f"{model} under budgets", "by", *numbers, "on the front of", numbers=numbers)
        for row in sorted(own, key=lambda row: -row["nbytes"]):
            fronts = [what for what, key in KINDS.items() if not _beaten(row, own, key)]
            cells = [f"{row['value']:.4g}", size_text(row["nbytes"]), time_text(row["seconds"])]
            one.add_row(row["way"], *cells, ", ".join(fronts))
        made.append(one)
    return made


KINDS = {"size": "nbytes", "latency": "seconds"}


def front_verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Per model and front, how many builds of either alone both together beat."""
    for model, own in _by_model(rows).items():
        both = [row for row in own if row["way"] == BOTH]
        for what, key in KINDS.items():
            alone = [row for row in own if row["way"] in ALONE]
            beaten = sum(_beaten(row, both, key) for row in alone)
            yield (
                f"{model}, quality against {what}: {BOTH} is at least as good and smaller, or "
                f"better and no larger, than {beaten} of {len(alone)} builds of either alone"
            )


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["what"] == FRONT:
            found.setdefault(row["model"], []).append(row)
    return found


def _beaten(row: Row, others: Sequence[Row], key: str) -> bool:
    """Whether another build is as good in quality and in what is spent, and better in one."""
    sign = 1 if row["better"] == "higher" else -1
    own = (sign * row["value"], -row[key])
    found = [(sign * one["value"], -one[key]) for one in others]
    return any(one[0] >= own[0] and one[1] >= own[1] and one != own for one in found)
