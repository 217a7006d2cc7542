"""Default schedules of kernels beside tuned ones, measured in turns."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench.candidates import PASSES, WORK
from bench.compiling import compile_artifact
from bench.models import Entry
from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.backends.runner import Model
from effc.environment import environment
from effc.tables import render, table
from effc.units import time_text

RESULT = Path("bench/tuning.json")
THREADS, ROUNDS = 2, 30
BAR = 1.10
Row = dict[str, Any]


def compare_tuned(entries: Sequence[Entry], precisions: Sequence[str], trials: int) -> int:
    """Compile with and without tuning, measure, print the table, write the JSON.

    Args:
        entries: Models.
        precisions: Of `PASSES`.
        trials: Schedules to measure per model and precision.

    Returns:
        0 if no default is behind by more than the bar, else 1.
    """
    rows: list[Row] = []
    cases = [(entry, precision) for entry in entries for precision in precisions]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("tuning", total=len(cases))
        for entry, precision in cases:
            progress.update(task, description=f"{entry.name}, {precision}")
            rows += measure_tuned(entry, precision, trials)
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))
            progress.advance(task)
    print(render([tuning_table(rows)]), end="")
    behind = [row for row in rows if row["variant"] == "default" and row["ratio"] > BAR]
    for row in behind:
        print(f"missed: {row['model']}, {row['note']}: tuned is {row['ratio']:.2f}x faster")
    return 1 if behind else 0


def measure_tuned(entry: Entry, precision: str, trials: int) -> Iterable[Row]:
    """Two rows: the model with default and with tuned schedules."""
    builds = {
        "default": _compiled(entry, precision, "default", 0),
        "tuned": _compiled(entry, precision, "tuned", trials),
    }
    inputs, _ = Artifact(builds["default"]).sample()
    models = {name: Model(folder, THREADS) for name, folder in builds.items()}
    calls = {name: (lambda model=model: model.run(inputs)) for name, model in models.items()}
    latencies = interleaved(calls, ROUNDS)
    tuning = Artifact(builds["tuned"]).report["tuning"]
    for model in models.values():
        model.close()
    best = latencies["tuned"].median
    return [
        {
            "model": entry.name, "what": "latency", "value": found.median, "unit": "s",
            "better": "lower", "peer": None, "variant": name, "note": precision,
            "low": found.low, "high": found.high, "runs": found.runs, "threads": THREADS,
            "batch": 1, "trials": trials, "kernels": len(tuning["kernels"]),
            "ratio": found.median / best,
        }
        for name, found in latencies.items()
    ]  # fmt: skip


def _compiled(entry: Entry, precision: str, name: str, trials: int) -> Path:
    folder = WORK / f"{entry.name.replace(' ', '-')}-{precision}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--threads", str(THREADS), "--keep-going", "-p", PASSES[precision]]
    options += ["--calib", entry.calib(1)] if precision == "int8" else []
    options += ["--tune", str(trials)] if trials else []
    database = None if trials else WORK / "no-tuning.jsonl"
    return compile_artifact(entry.model(1), folder, *options, database=database).folder


def tuning_table(rows: Sequence[Row]) -> Any:
    """A row per model and precision."""
    columns = ("default", "tuned", "kernels", "default / tuned")
    found = table("default and tuned schedules", "model", "precision", *columns, numbers=columns)
    for row in rows:
        if row["variant"] != "default":
            continue
        (tuned,) = [
            other
            for other in rows
            if other["variant"] == "tuned"
            and (other["model"], other["note"]) == (row["model"], row["note"])
        ]
        times = [time_text(one["value"]) for one in (row, tuned)]
        found.add_row(row["model"], row["note"], *times, str(row["kernels"]), f"{row['ratio']:.3f}")
    return found
