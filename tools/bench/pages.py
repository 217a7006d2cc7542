"""Writes measured tables into the pages under `docs/`, each section by the command named in it."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from effc.environment import environment
from effc.tables import render, table
from effc.units import time_text

PAGE, BENCHMARKS = Path("docs/results.md"), Path("docs/benchmarks.md")
MARGIN_DB, EXACT_DB = 1.0, 200.0
Row = dict[str, Any]
PRECISIONS = {
    "int8": ("ONNX Runtime int8 static", "ONNX Runtime int8 dynamic", "OpenVINO int8"),
    "bfloat16": ("OpenVINO default",),
    "float32": ("ONNX Runtime float32", "OpenVINO float32", "PyTorch eager", "PyTorch compiled"),
}
HEAD = """# Results

Every number on this page was written by the command named above it, on the machine named there.
Times of one run compare with each other, not with those of another machine.
"""


def speed_tables(rows: Sequence[dict[str, Any]], threads: int) -> list[Table]:
    """Latency with spread, ratios and error of every candidate; compile time and memory."""
    latency = Table(title=f"Latency, batch 1, {threads} threads", title_justify="left")
    for column in ("model", "candidate", "median", "10% - 90%", "SQNR", "effc int8 is"):
        latency.add_column(column, justify="left" if column in ("model", "candidate") else "right")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["what"] == "latency"]
        base = next(row["value"] for row in own if row["variant"] == "effc int8")
        for row in sorted(own, key=lambda row: row["value"]):
            latency.add_row(
                model,
                row["variant"],
                time_text(row["value"]),
                f"{time_text(row['low'])} - {time_text(row['high'])}",
                _decibel(row),
                f"{row['value'] / base:.2f}x faster",
            )
        latency.add_section()
    compiling = Table(title="Compiling", title_justify="left")
    for column in ("model", "what", "time", "peak memory", "float32 weights"):
        compiling.add_column(column, justify="left" if column in ("model", "what") else "right")
    for row in rows:
        if row["what"] != "compile time":
            continue
        memory = next(
            other["value"]
            for other in rows
            if other["what"] == "compile peak memory"
            and (other["model"], other["note"]) == (row["model"], row["note"])
        )
        compiling.add_row(
            row["model"], row["note"], f"{row['value']:.1f} s", f"{memory / 1e9:.2f} GB",
            f"{row['weight_nbytes'] / 1e6:.1f} MB",
        )  # fmt: skip
    return [latency, compiling]


def write_section(
    name: str,
    command: str,
    tables: Sequence[Table],
    page: Path = PAGE,
    *,
    about: str = "",
    lines: Sequence[str] = (),
) -> None:
    """Put tables between the markers of a section of a page, with what they are and show."""
    cpu = environment()["cpu"]
    told = f" {about}" if about else ""
    listing = "".join(f"\n- {line}" for line in lines)
    body = f"`{command}` on {cpu}:{told}\n\n```\n{render(tables).rstrip()}\n```"
    body += f"\n{listing}" if listing else ""
    section = f"<!-- {name} -->\n## {name.capitalize()}\n\n{body}\n<!-- /{name} -->"
    text = page.read_text() if page.exists() else HEAD
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    page.parent.mkdir(exist_ok=True)
    page.write_text(text)


def benchmark_page(rows: Sequence[Row], command: str) -> None:
    """Write `docs/benchmarks.md`: every model beside the best peer of each precision."""
    latencies = [row for row in rows if row["what"] == "latency"]
    places = sorted({(row["batch"], row["threads"]) for row in latencies})
    parts = []
    for batch, threads in places:
        here = [r for r in latencies if (r["batch"], r["threads"]) == (batch, threads)]
        body = render([peer_table(here, precision) for precision in PRECISIONS], width=120)
        title = f"## Batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        parts.append(f"{title}\n\n```\n{body.rstrip()}\n```")
    text = "\n\n".join([BENCHMARK_HEAD.format(command=command, cpu=environment()["cpu"]), *parts])
    BENCHMARKS.write_text(f"{text}\n\n{_prose()}")


BENCHMARK_HEAD = """# Benchmarks

`{command}` on {cpu}: medians of interleaved rounds. *ratio* is the best peer's time over effc's
(larger is better), the best of those whose SQNR is at most 1 dB above effc's; *of limit* is the
time the multiply-adds alone take at the measured peak of the same run, over effc's time. SQNR is
against the float32 model."""
PROSE = "<!-- prose -->"


def _prose() -> str:
    """What was written by hand below the mark."""
    text = BENCHMARKS.read_text() if BENCHMARKS.exists() else ""
    _, mark, after = text.partition(PROSE)
    return PROSE + (after if mark else "\n")


def peer_table(rows: Sequence[Row], precision: str) -> Table:
    """One row per model: effc at a precision and the best peer that is as accurate."""
    columns = ("effc", "of limit", "SQNR", "best peer", "its time", "its SQNR", "ratio")
    found = table(precision, "model", *columns, numbers=set(columns) - {"best peer"})
    ratios = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["variant"]: row for row in rows if row["model"] == model}
        ours = own.get(f"effc {precision}")
        if ours is None:
            continue
        limit = f"{ours['limit'] / ours['value']:.0%}" if ours.get("limit") else ""
        cells = [model, time_text(ours["value"]), limit, _decibel(ours)]
        peer = best_peer(own, ours, PRECISIONS[precision])
        if peer is not None:
            ratios.append(peer["value"] / ours["value"])
            name = peer["variant"].replace(f" {precision}", "")
            cells += [name, time_text(peer["value"]), _decibel(peer), f"{ratios[-1]:.2f}"]
        found.add_row(*cells)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        found.add_row("geometric mean", *[""] * 6, f"{mean:.2f}")
    return found


def best_peer(own: dict[str, Row], ours: Row, names: Sequence[str]) -> Row | None:
    """The fastest of some peers that is not more than a margin less accurate than effc is."""
    least = ours["sqnr_db"] + MARGIN_DB
    peers = [own[name] for name in names if name in own]
    as_good = [row for row in peers if row["sqnr_db"] <= least] or peers
    return min(as_good, key=lambda row: row["value"], default=None)


def _decibel(row: Row) -> str:
    return "exact" if row["sqnr_db"] >= EXACT_DB else f"{row['sqnr_db']:.1f} dB"
