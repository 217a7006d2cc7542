"""Tables for people, drawn from a report."""

import io
import math
import shutil
from collections.abc import Iterable
from typing import Any, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from effc.sensitivity import layer_decibel
from effc.units import (
    change_text,
    decibel_text,
    metric_text,
    range_text,
    share_text,
    size_text,
    speed_text,
    time_text,
)

COMPARED = ("float32 baseline", "compiled", "change")
NARROWEST, USUAL, WIDEST = 80, 120, 140
Justify = Literal["left", "right"]


def render(parts: Iterable[RenderableType], width: int | None = None) -> str:
    """Tables as plain text, as wide as the terminal; 120 columns where there is none."""
    if width is None:
        columns = shutil.get_terminal_size((USUAL, 24)).columns
        width = min(max(columns, NARROWEST), WIDEST)
    output = io.StringIO()
    console = Console(file=output, width=width, color_system=None, highlight=False)
    for part in parts:
        console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in output.getvalue().splitlines())


def table(title: str, *columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; columns named in `numbers` stand right."""
    made = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD,
        pad_edge=False, collapse_padding=True, min_width=min(len(title) + 1, NARROWEST),
    )  # fmt: skip
    right = set(numbers)
    for column in columns:
        justify: Justify = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column in right, overflow="fold")
    return made


def comparison_table(report: dict[str, Any]) -> Table:
    """Baseline against result: quality, latency, size, memory."""
    title = f"{report['model']['name']} on {place_text(report['measured_at'])}"
    made = table(title, "", *COMPARED, numbers=COMPARED)
    for row in comparison_rows(report):
        made.add_row(*map(Text, row))
    return made


def comparison_rows(report: dict[str, Any]) -> list[list[str]]:
    """What, the baseline's, the result's and the change, for every measured thing."""
    baseline, result = report["baseline"], report["result"]
    rows = []
    better = report["metric"]["better"] if report["metric"] else None
    for number, (name, before) in enumerate(baseline["scores"].items()):
        after = result["scores"].get(name)
        change = change_text(before, after, None if number else better)
        rows.append([name, metric_text(before), metric_text(after), change])
    if baseline["latency"]:
        before, after = baseline["latency"], result["latency"]
        change = speed_text(before["median"], after["median"])
        rows.append(["latency, median", _median(before), _median(after), change])
        rows.append(["latency, 10% to 90%", _spread(before), _spread(after), ""])
    for label, key in (("load", "load"), ("first run", "first")):
        if baseline.get("start"):
            before, after = baseline["start"][key], result["start"][key]
            rows.append([label, time_text(before), time_text(after), speed_text(before, after)])
    for label, key in (("size on disk", "size_nbytes"), ("peak memory", "memory_nbytes")):
        before, after = baseline[key], result[key]
        rows.append([label, size_text(before), size_text(after), share_text(after, before)])
    return rows


def place_text(at: dict[str, Any]) -> str:
    """What was measured where: `native, 2 threads, batch=1`."""
    threads = f"{at['threads']} thread{'s' if at['threads'] != 1 else ''}"
    return ", ".join([at["target"], threads, *(f"{n}={v}" for n, v in at["sizes"].items())])


def _median(latency: dict[str, float]) -> str:
    return time_text(latency["median"])


def _spread(latency: dict[str, float]) -> str:
    return range_text(latency["low"], latency["high"])


def pass_table(rows: Iterable[dict[str, Any]]) -> Table:
    """One row per pass: time, what changed, refusals."""
    numbers = ("time", "multiply-adds", "weights", "error")
    rows = list(rows)
    with_error = any(row["measured"].get("output_error") for row in rows)
    columns = ["pass", "time", "changed", "multiply-adds", "weights"]
    made = table("passes", *columns, *(["error"] if with_error else []), "left alone",
                 numbers=numbers)  # fmt: skip
    for row in rows:
        cost = row["measured"].get("cost_after", {})
        cells = [
            row["text"],
            time_text(row["seconds"]),
            "yes" if row["changed"] else "",
            f"{cost['macs']:,}" if cost else "",
            size_text(cost["weight_nbytes"]) if cost else "",
        ]
        if with_error:
            cells.append(_error_text(row["measured"].get("output_error")))
        refused = "; ".join(f"{r['count']} x {r['reason']}" for r in row["refusals"])
        made.add_row(*map(Text, [*cells, refused]))
    return made


def _error_text(errors: dict[str, Any] | None) -> str:
    if not errors:
        return ""
    return min((decibel_text(e["sqnr_db"]) for e in errors.values()), key=_decibel)


def _decibel(text: str) -> float:
    return float("inf") if text == "exact" else float(text.removesuffix(" dB"))


def all_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of every pass of a compile."""
    return [*report["clean"], *report["passes"], *report["lowering"]]


def kernel_table(report: dict[str, Any], count: int = 12) -> Table:
    """The steps that take the time, with what they achieve beside the machine's limits."""
    rows = sorted(report["profile"], key=lambda row: -row["seconds"])
    total = sum(row["seconds"] for row in rows)
    title = f"where the time goes ({time_text(total)} in {len(rows)} steps)"
    numbers = ("time", "share", "GMAC/s", "of peak", "GB/s")
    made = table(title, "layer", "kernel", *numbers, numbers=numbers)
    for row in rows[:count]:
        share = f"{row['seconds'] / total:.1%}" if total else ""
        cells = [row["source"], kernel_text(row), time_text(row["seconds"]), share]
        made.add_row(*map(Text, [*cells, *achieved(row, report.get("peaks"))]))
    if len(rows) > count:
        rest = sum(row["seconds"] for row in rows[count:])
        share = f"{rest / total:.1%}" if total else ""
        made.add_row(f"and {len(rows) - count} more steps", "", time_text(rest), share)
    return made


def kernel_text(row: dict[str, Any]) -> str:
    """A step's kernel and what it multiplies: `conv2d int8`."""
    return " ".join(filter(None, (row["family"], row.get("precision", ""))))


def achieved(row: dict[str, Any], peaks: dict[str, Any] | None) -> list[str]:
    """Multiply-adds per second, their share of the machine's peak, bytes per second."""
    seconds, macs, nbytes = row["seconds"], row.get("macs", 0), row.get("nbytes", 0)
    if not seconds:
        return ["", "", ""]
    peak = peaks["macs"].get(row["precision"]) if peaks and macs else None
    return [
        f"{macs / seconds / 1e9:.1f}" if macs else "",
        f"{macs / seconds / peak:.0%}" if peak else "",
        f"{nbytes / seconds / 1e9:.1f}" if nbytes else "",
    ]


def layer_table(layers: dict[str, dict[str, Any]]) -> Table:
    """What was decided for each layer, with its share of the time where that is known."""
    with_time = any("time_share" in notes for notes in layers.values())
    columns = ["layer", "weight", "activation", "SQNR", *(["time"] if with_time else []), "why"]
    made = table("layers", *columns, numbers=("SQNR", "time"))
    for layer, notes in layers.items():
        activation = str(notes.get("activation", "")).partition(" scale=")[0]
        cells = [layer, str(notes.get("weight", "")), activation, _layer_decibel(notes)]
        if with_time:
            cells.append(f"{notes['time_share']:.1%}")
        cells.append(str(notes.get("why", "")))
        made.add_row(*map(Text, cells))
    return made


def _layer_decibel(notes: dict[str, Any]) -> str:
    ratio = layer_decibel(notes)
    return decibel_text(ratio) if math.isfinite(ratio) else ""


def benchmark_table(result: dict[str, Any]) -> Table:
    """Latency, size and memory of everything measured, and how it compares with the artifact."""
    at = {"target": result["target"], "threads": result["threads"], "sizes": result["sizes"]}
    columns = ("median", "10% to 90%", "effc is", "size", "memory")
    made = table(f"{result['model']} on {place_text(at)}", "", *columns, numbers=columns)
    own = result["rows"][0]["median"]
    for number, row in enumerate(result["rows"]):
        compared = speed_text(row["median"], own) if number else ""
        sizes = [
            size_text(row[key]) if row[key] else "" for key in ("size_nbytes", "memory_nbytes")
        ]
        made.add_row(row["what"], time_text(row["median"]), _spread(row), compared, *sizes)
    return made


def start_table(result: dict[str, Any]) -> Table:
    """What comes before the steady state: loading, and the first run."""
    columns = ("load", "first run", "later runs")
    made = table("until the first result", "", *columns, numbers=columns)
    for row in result["rows"]:
        seconds = (row["start"]["load"], row["start"]["first"], row["median"])
        made.add_row(row["what"], *map(time_text, seconds))
    return made


def tuning_tables(result: dict[str, Any]) -> list[RenderableType]:
    """What tuning found: latencies of the model, gains of kernels."""
    times = table(
        f"{result['model']['name']} on {place_text(result['measured_at'])}",
        "", "median", "10% to 90%", numbers=("median", "10% to 90%"),
    )  # fmt: skip
    for name, latency in result["latencies"].items():
        times.add_row(name, _median(latency), _spread(latency))
    return [times, tuned_table(result["tuning"])]


def tuned_table(tuning: dict[str, Any]) -> Table:
    """Kernels that run with a tuned schedule, and what that gains them."""
    known = f"{tuning['measured']} schedules measured, {tuning['found']} known before"
    numbers = ("default", "tuned", "gain")
    made = table(f"tuned kernels ({known})", "layer", "kernel", "schedule", *numbers,
                 numbers=numbers)  # fmt: skip
    for row in sorted(tuning["kernels"], key=lambda row: -row["default_seconds"]):
        schedule = " ".join(f"{name}={value}" for name, value in row["schedule"].items())
        before, after = row["default_seconds"], row["seconds"]
        cells = [row["source"], row["family"], schedule, time_text(before), time_text(after)]
        made.add_row(*map(Text, [*cells, f"{before / after:.2f}x"]))
    return made


def report_tables(report: dict[str, Any]) -> list[RenderableType]:
    """The whole report."""
    checks = report["result"]["check"].items()
    lines = [
        *(f"output {name}: {decibel_text(e['sqnr_db'])} against the program" for name, e in checks),
        *(f"note: {note}" for note in report["notes"]),
        *(f"problem: {problem}" for problem in report["verdict"]["problems"]),
        f"{report['environment']['cpu']}, effc {report['environment']['effc']}",
    ]
    return [
        comparison_table(report),
        pass_table(all_rows(report)),
        kernel_table(report),
        *([tuned_table(tuning)] if (tuning := report.get("tuning")) and tuning["kernels"] else []),
        *map(Text, lines),
    ]
