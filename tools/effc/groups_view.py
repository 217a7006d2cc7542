"""What pruning could cut of a model: a table, and a drawing of which layers share which groups."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.groups import OTHER, Group, groups_of
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.passes.prune.cost import CutCost
from effc.tables import table

FORMATS = (".svg", ".html")
SHOWN = 3
COLOURS = {
    "channels": "#1f77b4",
    "neurons": "#2ca02c",
    "hidden": "#d62728",
    "heads": "#9467bd",
    "query-heads": "#c5a3e0",
    "head-width": "#e377c2",
}
REFUSED = "#aaaaaa"
ROW, LANE, TOP, MARGIN, CHARACTER = 22, 18, 56, 16, 7
Row = dict[str, Any]


def group_rows(program: Program) -> list[Row]:
    """Every group as plain data: what it would cut, what one of it costs, or why it must stay."""
    coupling = analyse(program)
    cost = CutCost(program, coupling)
    nothing = np.zeros(0, np.int64)
    macs, parameters = cost.macs(nothing), cost.parameters(nothing)
    found = []
    for group in groups_of(coupling):
        if group.kind == OTHER:
            continue
        row = _row(group)
        if not group.reason and group.size > 1:
            one = group.atoms[:1]
            row["macs_each"] = round(macs - cost.macs(one))
            row["parameters_each"] = parameters - cost.parameters(one)
        found.append(row)
    return found


def _row(group: Group) -> Row:
    return {
        "name": group.name,
        "kind": group.kind,
        "size": group.size,
        "width": group.width,
        "weights": [
            {"name": site.weight, "dimension": site.dimension, "role": site.role}
            for site in group.sites
        ],
        "refused": group.reason,
    }


def group_table(rows: Sequence[Row]) -> Table:
    """A line per group."""
    numbers = ("size", "parameters each", "multiply-adds each")
    made = table("what pruning could cut", "group", "kind", *numbers, "in", numbers=numbers)
    for row in rows:
        sites = [f"{one['name']}.{one['dimension']}" for one in row["weights"]]
        more = f" and {len(sites) - SHOWN} more" if len(sites) > SHOWN else ""
        where = f"refused: {row['refused']}" if row["refused"] else ", ".join(sites[:SHOWN]) + more
        each = [f"{row[key]:,}" if key in row else "" for key in ("parameters_each", "macs_each")]
        made.add_row(row["name"], row["kind"], str(row["size"]), *each, where)
    return made


def checked_place(path: Path) -> Path:
    """A file a drawing can be written to.

    Raises:
        UsageError: If it has another ending, or no folder to stand in.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"--graph {path}: write to a file that ends in {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--graph {path}: there is no folder {path.absolute().parent}")
    return path


def draw_groups(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draw a line per weight and a rail per group; a ring computes the group, a dot reads it."""
    picture = _svg(name, rows)
    if path.suffix == ".html":
        title = escape(name)
        picture = f"<!doctype html><meta charset=utf-8><title>{title}</title><body>{picture}</body>"
    path.write_text(picture, encoding="utf-8")


def _svg(name: str, rows: Sequence[Row]) -> str:
    weights = list(dict.fromkeys(one["name"] for row in rows for one in row["weights"]
                                 if one["role"]))  # fmt: skip
    lines = {weight: TOP + ROW * at for at, weight in enumerate(weights)}
    spans = [_span(row, lines) for row in rows]
    lanes = _lanes(spans)
    left = 2 * MARGIN + CHARACTER * max((len(weight) for weight in weights), default=0)
    width = max(left + LANE * (max(lanes, default=0) + 2), MARGIN + 110 * (len(COLOURS) + 1))
    height = TOP + ROW * (len(weights) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="monospace" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{MARGIN}" y="20" font-weight="bold">{escape(name)}</text>'
    ]
    for at, (kind, colour) in enumerate({**COLOURS, "refused": REFUSED}.items()):
        x = MARGIN + 110 * at
        parts.append(f'<circle cx="{x + 5}" cy="36" r="5" fill="{colour}"/>'
                     f'<text x="{x + 14}" y="40">{kind}</text>')  # fmt: skip
    for weight, y in lines.items():
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y}" y2="{y}" stroke="#eeeeee"/>'
            f'<text x="{MARGIN}" y="{y + 4}">{escape(weight)}</text>'
        )
    for row, span, lane in zip(rows, spans, lanes, strict=True):
        if span is not None:
            parts.append(_rail(row, span, left + LANE * (lane + 1), lines))
    return "".join(parts) + "</svg>\n"


def _span(row: Row, lines: dict[str, int]) -> tuple[int, int] | None:
    heights = [lines[one["name"]] for one in row["weights"] if one["role"]]
    return (min(heights), max(heights)) if heights else None


def _lanes(spans: Sequence[tuple[int, int] | None]) -> list[int]:
    """For every span the first lane where it meets no other."""
    ends: list[int] = []
    found = []
    for span in spans:
        if span is None:
            found.append(0)
            continue
        lane = next((at for at, end in enumerate(ends) if end < span[0]), len(ends))
        if lane == len(ends):
            ends.append(0)
        ends[lane] = span[1]
        found.append(lane)
    return found


def _rail(row: Row, span: tuple[int, int], x: int, lines: dict[str, int]) -> str:
    colour = REFUSED if row["refused"] else COLOURS.get(row["kind"], REFUSED)
    what = f"{row['name']}: {row['size']} {row['kind']}"
    title = escape(f"{what}; {row['refused']}" if row["refused"] else what)
    dash = ' stroke-dasharray="3 3"' if row["refused"] else ""
    parts = [
        f"<g><title>{title}</title>"
        f'<line x1="{x}" x2="{x}" y1="{span[0]}" y2="{span[1]}" stroke="{colour}" '
        f'stroke-width="2"{dash}/>'
    ]
    for one in row["weights"]:
        if one["role"]:
            fill = "white" if one["role"] == "out" else colour
            y = lines[one["name"]]
            parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="{fill}" stroke="{colour}" '
                         f'stroke-width="2"/>')  # fmt: skip
    return "".join(parts) + "</g>"
