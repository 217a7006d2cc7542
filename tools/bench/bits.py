"""`make bench-bits`: the page `docs/bits.md`, a section per module.

`BENCH="SECTION ..."` measures some sections only, `BENCH="allocation vit"` some of a section's
models; rows measured anew replace earlier ones.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.pages import write_section
from bench.sections import SECTIONS, TIMED, Row, jobs_of, section_of, side_by_side
from effc.environment import environment

RESULT, PAGE = Path("bench/bits.json"), Path("docs/bits.md")
COMMAND = "make bench-bits"


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
        for fresh in measured(names, wanted, progress):
            rows = merged(rows, fresh)
            record = {"environment": environment(), "rows": rows}
            RESULT.write_text(json.dumps(record, indent=1) + "\n")
    console = Console(width=110, highlight=False)
    for name in SECTIONS:
        own = [row for row in rows if row.get("section") == name]
        if own:
            console.print(*write(name, own), sep="\n")
    return 0


def measured(
    names: Sequence[str], wanted: Sequence[str], progress: Progress
) -> Iterator[list[Row]]:
    """Rows of all sections: those that take times by themselves, all others side by side."""
    yield from side_by_side(jobs_of([one for one in names if one not in TIMED], wanted), progress)
    for name in names:
        if name in TIMED:
            yield from ([row] for row in section_of(name).rows_of(progress, wanted))


def write(name: str, rows: Sequence[Row]) -> list[str | Table]:
    """Write a section of the page; gives what it shows."""
    section = section_of(name)
    tables, lines = section.tables_of(rows), list(section.lines_of(rows))
    write_section(section.TITLE, COMMAND, tables, PAGE, about=section.ABOUT, lines=lines)
    return [*tables, *lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
