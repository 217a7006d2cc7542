"""The report as one HTML page without scripts: tables, and bars for sensitivity and time."""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from effc.explanation import layers_of
from effc.ir.errors import UsageError
from effc.sensitivity import layer_decibel
from effc.tables import COMPARED, achieved, all_rows, comparison_rows, kernel_text, place_text
from effc.units import time_text

MOST_STEPS = 40
STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7a; --line: #dde3e9; --bar: #2f6fb3; --good: #1f8a5b;
        --bad: #b3402f; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem;
       margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.soft { color: var(--soft); margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right;
     font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 14rem; margin-top: .35rem; } .bar div { background: var(--bar); height: .8rem;
       min-width: 1px; border-radius: 2px; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write the page.

    Raises:
        UsageError: If the file cannot be written.
    """
    try:
        path.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def page(report: dict[str, Any]) -> str:
    """The page as text."""
    environment = report["environment"]
    subtitle = f"{place_text(report['measured_at'])}; {environment['cpu']}, "
    subtitle += f"effc {environment['effc']}"
    name = escape(report["model"]["name"])
    parts = [
        f"<h1>{name}</h1><p class=soft>{escape(subtitle)}</p>",
        _verdict(report),
        _section("Baseline and result", _comparison(report)),
        _section("Signal to noise of each layer's format", _sensitivity(report)),
        _section("Where the time goes", _time(report)),
        _section("Passes", _passes(report)),
        _section("Left alone", _refusals(report)),
    ]
    head = f"<meta charset=utf-8><title>{name}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numeric: set[int]) -> str:
    def cells(values: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag} class=n>{v}</{tag}>" if i in numeric else f"<{tag}>{v}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>" if body else ""


def _verdict(report: dict[str, Any]) -> str:
    lines = [f"<p class=bad>{escape(p)}</p>" for p in report["verdict"]["problems"]]
    if not lines:
        lines = [f"<p class=good>{_promises(report['recipe'])}</p>"]
    lines += [f"<p>{escape(note)}</p>" for note in report["notes"]]
    return "".join(lines)


def _promises(recipe: dict[str, Any]) -> str:
    """What a result without problems keeps."""
    budgets = {"quality": recipe["max_drop"], "size": recipe["max_size"]}
    kept = [f"{name} within the budget of {escape(b)}" for name, b in budgets.items() if b]
    return ", ".join(["Not slower than the baseline", *kept]) + "."


def _comparison(report: dict[str, Any]) -> str:
    rows = [map(escape, row) for row in comparison_rows(report)]
    return _table(["", *COMPARED], rows, {1, 2, 3})


def _bar(share: float) -> str:
    return f"<div class=bar><div style='width:{100 * max(min(share, 1.0), 0.0):.1f}%'></div></div>"


def _sensitivity(report: dict[str, Any]) -> str:
    layers = layers_of(report["passes"])
    ratios = {name: layer_decibel(notes) for name, notes in layers.items()}
    known = sorted((name for name in ratios if math.isfinite(ratios[name])), key=ratios.__getitem__)
    top = max((ratios[name] for name in known), default=1.0) or 1.0
    rows = [
        [escape(name), escape(_format(layers[name])), f"{ratios[name]:.1f} dB",
         _bar(ratios[name] / top), escape(layers[name].get("why", ""))]
        for name in known
    ]  # fmt: skip
    return _table(["layer", "format", "SQNR", "", "why"], rows, {2})


def _format(notes: dict[str, Any]) -> str:
    activation = notes.get("activation", "").partition(" scale=")[0]
    return ", ".join(part for part in (notes.get("weight", ""), activation) if part)


def _time(report: dict[str, Any]) -> str:
    steps = sorted(report["profile"], key=lambda row: -row["seconds"])
    total = sum(row["seconds"] for row in steps) or 1.0
    longest = steps[0]["seconds"] if steps else 1.0
    rows = [
        [escape(row["source"]), escape(kernel_text(row)), time_text(row["seconds"]),
         f"{row['seconds'] / total:.1%}", *achieved(row, report.get("peaks")),
         _bar(row["seconds"] / (longest or 1.0))]
        for row in steps[:MOST_STEPS]
    ]  # fmt: skip
    if rest := steps[MOST_STEPS:]:
        seconds = sum(row["seconds"] for row in rest)
        rows.append([f"and {len(rest)} more steps", "", time_text(seconds),
                     f"{seconds / total:.1%}", "", "", "", ""])  # fmt: skip
    head = ["layer", "kernel", "time", "share", "GMAC/s", "of peak", "GB/s", ""]
    return _table(head, rows, {2, 3, 4, 5, 6})


def _passes(report: dict[str, Any]) -> str:
    rows = [
        [f"<code>{escape(row['text'])}</code>", time_text(row["seconds"]),
         "yes" if row["changed"] else "no"]
        for row in all_rows(report)
    ]  # fmt: skip
    return _table(["pass", "time", "changed"], rows, {1})


def _refusals(report: dict[str, Any]) -> str:
    rows = [
        [escape(entry["rule"]), escape(entry["reason"]), str(entry["count"]),
         escape(", ".join(entry["sources"][:3]))]
        for row in all_rows(report)
        for entry in row["refusals"]
    ]  # fmt: skip
    return _table(["rule", "reason", "count", "where"], rows, {2})
