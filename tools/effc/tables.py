"""Tables for people, drawn from a report."""

import io
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 110


def render(parts: Iterable[RenderableType]) -> str:
    """Tables as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    for part in parts:
        console.print(part)
    output = console.file
    return output.getvalue() if isinstance(output, io.StringIO) else ""


def size_text(nbytes: float) -> str:
    """Bytes in decimal units: `22.9 MB`."""
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def time_text(seconds: float) -> str:
    """Seconds in a readable unit: `1.24 ms`."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.1f} µs"
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def comparison_table(report: dict[str, Any]) -> Table:
    """Baseline against result: quality, latency, size, memory."""
    baseline, result = report["baseline"], report["result"]
    at = ", ".join(f"{name}={value}" for name, value in report["measured_at"]["sizes"].items())
    place = f"{report['measured_at']['target']}, {report['measured_at']['threads']} threads"
    title = f"{report['model']['name']} on {place}" + (f", {at}" if at else "")
    table = Table(title=title, title_justify="left")
    for column in ("", "float32 baseline", "compiled", "change"):
        table.add_column(column, justify="left" if not column else "right")
    if report["metric"] and baseline["quality"] is not None:
        change = result["quality"] - baseline["quality"]
        table.add_row(
            report["metric"]["name"], f"{baseline['quality']:.4f}", f"{result['quality']:.4f}",
            f"{change:+.4f}",
        )  # fmt: skip
    if baseline["latency"]:
        before, after = baseline["latency"], result["latency"]
        table.add_row(
            "latency (median)", _spread(before), _spread(after),
            f"{before['median'] / after['median']:.2f}x faster",
        )  # fmt: skip
    for name, key in (("size on disk", "size_nbytes"), ("peak memory", "memory_nbytes")):
        ratio = result[key] / baseline[key]
        table.add_row(name, size_text(baseline[key]), size_text(result[key]), f"{ratio:.0%}")
    return table


def _spread(latency: dict[str, float]) -> str:
    half = (latency["high"] - latency["low"]) / 2
    return f"{time_text(latency['median'])} ± {time_text(half)}"


def pass_table(report: dict[str, Any]) -> Table:
    """One row per pass: time, what changed, refusals."""
    table = Table(title="passes", title_justify="left")
    for column in ("pass", "time", "changed", "multiply-adds", "weights", "left alone"):
        table.add_column(column, justify="left" if column in ("pass", "left alone") else "right")
    for row in [*report["clean"], *report["passes"], *report["lowering"]]:
        cost = row["measured"].get("cost_after", {})
        table.add_row(
            row["text"],
            time_text(row["seconds"]),
            "yes" if row["changed"] else "no",
            f"{cost['macs']:,}" if cost else "",
            size_text(cost["weight_nbytes"]) if cost else "",
            "; ".join(f"{r['count']} x {r['reason']}" for r in row["refusals"]),
        )
    return table


def kernel_table(report: dict[str, Any], count: int = 12) -> Table:
    """The steps that take the time."""
    rows = sorted(report["profile"], key=lambda row: -row["seconds"])
    total = sum(row["seconds"] for row in rows) or 1.0
    table = Table(title=f"where the time goes ({time_text(total)} in {len(rows)} steps)",
                  title_justify="left")  # fmt: skip
    for column in ("layer", "kernel", "time", "share"):
        table.add_column(column, justify="left" if column in ("layer", "kernel") else "right")
    for row in rows[:count]:
        share = row["seconds"] / total
        table.add_row(row["source"], row["family"], time_text(row["seconds"]), f"{share:.1%}")
    return table


def layer_table(rows: list[dict[str, Any]]) -> Table:
    """What was decided for each layer."""
    table = Table(title="layers", title_justify="left")
    for column in ("layer", "weight", "activation", "SQNR"):
        table.add_column(column, justify="right" if column == "SQNR" else "left")
    for row in rows:
        for layer, notes in row["notes"].get("layers", {}).items():
            ratio = notes.get("sqnr_db")
            shown = f"{ratio:.1f} dB" if isinstance(ratio, int | float) else ""
            table.add_row(layer, notes.get("weight", ""), notes.get("activation", ""), shown)
    return table


def explain_table(layers: dict[str, dict[str, Any]]) -> Table:
    """Decisions per layer with their share of the time."""
    table = Table(title="layers", title_justify="left")
    for column in ("layer", "weight", "activation", "SQNR", "time"):
        table.add_column(column, justify="right" if column in ("SQNR", "time") else "left")
    for layer, notes in layers.items():
        ratio = notes.get("sqnr_db")
        shown = f"{ratio:.1f} dB" if isinstance(ratio, int | float) else ""
        share = f"{notes['time_share']:.1%}"
        weight, activation = notes.get("weight", ""), notes.get("activation", "")
        table.add_row(layer, weight, activation, shown, share)
    return table


def benchmark_table(result: dict[str, Any]) -> Table:
    """Latency of everything measured, and how it compares with the artifact."""
    at = ", ".join(f"{name}={value}" for name, value in result["sizes"].items())
    title = f"{result['model']}, {result['threads']} threads" + (f", {at}" if at else "")
    table = Table(title=title, title_justify="left")
    for column in ("", "median", "10%", "90%", "runs", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    own = result["rows"][0]["median"]
    for row in result["rows"]:
        table.add_row(
            row["what"], time_text(row["median"]), time_text(row["low"]), time_text(row["high"]),
            str(row["runs"]), f"{row['median'] / own:.2f}x",
        )  # fmt: skip
    table.caption = (
        f"size {size_text(result['size_nbytes'])}, memory {size_text(result['memory_nbytes'])}"
    )
    return table


def report_tables(report: dict[str, Any]) -> list[RenderableType]:
    """The whole report."""
    parts: list[RenderableType] = [
        comparison_table(report),
        pass_table(report),
        kernel_table(report),
    ]
    checks = report["result"]["check"]
    parts += [
        Text(f"output {name}: {entry['sqnr_db']:.1f} dB against the program")
        for name, entry in checks.items()
    ]
    parts += [Text(f"note: {note}") for note in report["notes"]]
    parts += [Text(f"problem: {problem}") for problem in report["verdict"]["problems"]]
    environment = report["environment"]
    parts.append(Text(f"{environment['cpu']}, effc {environment['effc']}"))
    return parts
