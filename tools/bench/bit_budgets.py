"""Budgets of size, quality and latency as `effc compile` keeps them, and what plans cost.

Every case is a compile of its own; what is shown is what its report measured, or what its error
said where it ended with exit code 4.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from bench.allocation import IMAGES, TOKENS
from bench.models import SUITE
from effc.tables import table

SECTION, TITLE = "budgets", "budgets"
MINILM = "MiniLM-L6"
MODELS = ("language_model", "vit", "residual_cnn", MINILM)
SECONDS = 1800
SIZE_AND_DROP = ("--max-drop", "1%", "--max-size", "20%")
LATENCY = ("--max-latency", "60%")
COST = "sensitivities"
Row = dict[str, Any]
ABOUT = (
    "`effc compile MODEL -p allocate-bits` with budgets: size, loss of quality and latency as "
    "measured, in percent of the float32 baseline of the same compile."
)


@dataclass(frozen=True)
class Case:
    """A compile.

    Attributes:
        model: What to call it.
        arguments: MODEL and its data.
        budgets: Options.
        passes: The pipeline.
    """

    model: str
    arguments: tuple[str, ...]
    budgets: tuple[str, ...]
    passes: str = "allocate-bits"


def _digits(name: str) -> tuple[str, ...]:
    data = ("--calib", "zoo.digits:calibration", "--eval", "zoo.digits:evaluation")
    return (f"zoo.digits:{name}", "--input", IMAGES, *data, "--metric", "top1")


def cases() -> list[Case]:
    """All compiles."""
    place = "zoo.language_model"
    data = ("--calib", f"{place}:calibration", "--eval", f"{place}:evaluation")
    text = (f"{place}:language_model", "--input", TOKENS, *data, "--metric", "perplexity")
    entry = next(one for one in SUITE if one.name == MINILM)
    sentences = (entry.model(1), "--calib", entry.calib(1))
    few = "allocate-bits{bits=float|8|4}"
    return [
        Case("language_model", text, SIZE_AND_DROP),
        Case("vit", _digits("vit"), SIZE_AND_DROP),
        Case("residual_cnn", _digits("residual_cnn"), SIZE_AND_DROP),
        Case("language_model", text, LATENCY, few),
        Case("vit", _digits("vit"), LATENCY, few),
        Case("residual_cnn", _digits("residual_cnn"), LATENCY, few),
        Case(MINILM, sentences, LATENCY, few),
    ]


def rows_of(progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
    """Compile all, or some models; measure what sensitivities cost."""
    chosen = [case for case in cases() if not wanted or case.model in wanted]
    task = progress.add_task(TITLE, total=len(chosen) + 1)
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            yield compiled(case, Path(folder))
        progress.advance(task)
    if not wanted or COST in wanted:
        yield cost()
    progress.advance(task)


def compiled(case: Case, folder: Path) -> Row:
    """Run a case."""
    command = [sys.executable, "-m", "effc", "compile", *case.arguments, "-p", case.passes]
    done = subprocess.run(
        [*command, "-o", str(folder / "out"), *case.budgets],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    kept = folder / ("out" if done.returncode == 0 else "out-candidate")
    row: Row = {
        "section": SECTION, "model": f"{case.model} {' '.join(case.budgets)}", "what": "exit code",
        "value": done.returncode, "unit": "1", "better": "lower", "peer": None,
        "subject": case.model, "budgets": " ".join(case.budgets),
        "error": "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1],
    }  # fmt: skip
    if not (kept / "report.json").exists():
        return row
    report = json.loads((kept / "report.json").read_text())
    before, after = report["baseline"], report["result"]
    row["size"] = after["size_nbytes"] / before["size_nbytes"]
    row["latency"] = after["latency"]["median"] / before["latency"]["median"]
    row["seconds"] = report["compile"]["seconds"]
    if after["quality"] is not None:
        sign = 1 if report["metric"]["better"] == "higher" else -1
        row["drop"] = sign * (before["quality"] - after["quality"]) / abs(before["quality"])
    return row


def cost() -> Row:
    """What sensitivities and the solve take on MiniLM, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.sensitivity_cost"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        **found, "section": SECTION, "model": COST, "subject": found["model"], "what": "seconds",
        "value": found["seconds"], "unit": "s", "better": "lower", "peer": None,
    }  # fmt: skip


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """A row per compile."""
    numbers = ("exit", "size", "drop", "latency", "compile")
    made = table("", "model", "budgets", *numbers, numbers=numbers)
    for row in rows:
        if row["model"] != COST:
            shares = [
                f"{row[key]:.1%}" if key in row else "" for key in ("size", "drop", "latency")
            ]
            seconds = f"{row['seconds']:.0f} s" if "seconds" in row else ""
            made.add_row(row["subject"], row["budgets"], str(row["value"]), *shares, seconds)
    return [made]


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """Errors of what missed its budget, and the cost of sensitivities."""
    for row in rows:
        if row.get("error"):
            yield f"{row['subject']} {row['budgets']}: {row['error'].partition('; the best')[0]}"
        if row["model"] == COST:
            share = row["grown_nbytes"] / row["model_nbytes"]
            yield (
                f"{row['subject']}: sensitivities of {row['layers']} layers by {row['metric']} and "
                f"the plan take {row['seconds']:.0f} s, {row['processor_seconds']:.0f} s of "
                f"processor time, and {share:.1f} times the memory of the model"
            )
