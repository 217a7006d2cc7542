"""Writes measured tables into the pages under `docs/`, each section by the command named in it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from effc.environment import environment
from effc.tables import render, time_text

PAGE = Path("docs/results.md")
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
                "exact" if row["sqnr_db"] >= 200 else f"{row['sqnr_db']:.1f} dB",
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


def write_section(name: str, command: str, tables: Sequence[Table]) -> None:
    """Put tables between the markers of a section of `docs/results.md`."""
    cpu = environment()["cpu"]
    body = f"`{command}` on {cpu}:\n\n```\n{render(tables).rstrip()}\n```"
    section = f"<!-- {name} -->\n## {name.capitalize()}\n\n{body}\n<!-- /{name} -->"
    text = PAGE.read_text() if PAGE.exists() else HEAD
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text)
