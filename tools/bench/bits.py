"""`make bench-bits`: the page `docs/bits.md`, a section per module.

`BENCH="SECTION ..."` measures some sections only, `BENCH="allocation vit"` some of a section's
models; rows measured anew replace earlier ones.
"""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.pages import write_section
from effc.environment import environment

RESULT, PAGE = Path("bench/bits.json"), Path("docs/bits.md")
SECTIONS = {
    "allocation": "bench.allocation",
    "front": "bench.bit_front",
    "budgets": "bench.bit_budgets",
    "rounding": "bench.rounding",
    "eight-bits": "bench.eight_bits",
}
COMMAND = "make bench-bits"
Row = dict[str, Any]


class Section(Protocol):
    """What a section's module offers."""

    TITLE: str
    ABOUT: str

    def rows_of(self, progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
        """Measure what is named, or all; every row has the `section` it is of."""

    def tables_of(self, rows: Sequence[Row]) -> list[Table]:
        """Tables of the section's rows."""

    def lines_of(self, rows: Sequence[Row]) -> Iterator[str]:
        """What they show, a line each."""


def section_of(name: str) -> Section:
    """The module of a section."""
    module: Any = importlib.import_module(SECTIONS[name])
    return module  # type: ignore[no-any-return]


def merged(rows: list[Row], fresh: Sequence[Row]) -> list[Row]:
    """Rows with those of the same section and model replaced."""
    again = {(row["section"], row["model"]) for row in fresh}
    return [*(row for row in rows if (row.get("section"), row["model"]) not in again), *fresh]


def main(arguments: Sequence[str]) -> int:
    """Measure the sections named, or all, write the JSON and the page."""
    names = [word for word in arguments if word in SECTIONS] or list(SECTIONS)
    wanted = [word for word in arguments if word not in SECTIONS]
    rows: list[Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    RESULT.parent.mkdir(exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            section = section_of(name)
            fresh: list[Row] = []
            for row in section.rows_of(progress, wanted):
                fresh.append(row)
                record = {"environment": environment(), "rows": merged(rows, fresh)}
                RESULT.write_text(json.dumps(record, indent=1) + "\n")
            rows = merged(rows, fresh)
    console = Console(width=110, highlight=False)
    for name in SECTIONS:
        own = [row for row in rows if row.get("section") == name]
        if own:
            console.print(*write(name, own), sep="\n")
    return 0


def write(name: str, rows: Sequence[Row]) -> list[str | Table]:
    """Write a section of the page; gives what it shows."""
    section = section_of(name)
    tables, lines = section.tables_of(rows), list(section.lines_of(rows))
    write_section(section.TITLE, COMMAND, tables, PAGE, about=section.ABOUT, lines=lines)
    return [*tables, *lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
