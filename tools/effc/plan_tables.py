"""Tables of a plan: what each layer took and what would change that; what was measured."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from effc.tables import table
from effc.units import metric_text, size_text, time_text


def plan_table(layers: dict[str, dict[str, Any]], plan: dict[str, Any]) -> Table:
    """Format, predicted loss, bytes and time per layer; the runner-up and what brings it.

    Args:
        layers: Notes by layer.
        plan: Totals, metric and solver of the plan.
    """
    loss, size = plan["totals"]["loss"], size_text(plan["totals"]["nbytes"])
    title = f"plan by {plan['metric']}, {plan['solver']}: loss {loss:.3g}, {size}"
    numbers = ("loss", "bytes", "estimate", "time", "runner-up's loss", "from")
    made = table(title, "layer", "format", "loss", "bytes", "estimate", "time", "runner-up",
                 "runner-up's loss", "from", numbers=numbers)  # fmt: skip
    for name, notes in layers.items():
        if "format" not in notes:
            continue
        estimate = time_text(notes["seconds"]) if "seconds" in notes else ""
        cells = [name, notes["format"], f"{notes['predicted_loss']:.3g}", f"{notes['nbytes']:,}",
                 estimate, f"{notes.get('time_share', 0.0):.1%}"]  # fmt: skip
        if "runner_up" in notes:
            cells += [notes["runner_up"], f"{notes['runner_up_loss']:.3g}", _budget(notes, plan)]
        made.add_row(*map(Text, cells))
    return made


def group_table(groups: Iterable[dict[str, Any]], plan: dict[str, Any] | None) -> Table:
    """How many channels each group kept; where a plan chose, what that costs and would change it.

    Args:
        groups: Rows of the report.
        plan: Totals of the plan, where there is one.
    """
    numbers = ("size", "kept", "loss", "runner-up", "runner-up's loss", "from")
    made = table("channels kept", "group", "kind", *numbers, numbers=numbers)
    for group in groups:
        cells = [group["name"], group["kind"], str(group["size"]), str(group["kept"])]
        if "predicted_loss" in group:
            cells.append(f"{group['predicted_loss']:.3g}")
        if plan is not None and "runner_up" in group:
            cells += [str(group["runner_up"]), f"{group['runner_up_loss']:.3g}"]
            cells.append(_budget(group, plan))
        made.add_row(*map(Text, cells))
    return made


def _budget(notes: dict[str, Any], plan: dict[str, Any]) -> str:
    """The budget from which on a layer takes its runner-up, of the whole program."""
    if "changes_at_nbytes" in notes:
        return size_text(notes["changes_at_nbytes"] + plan["other_nbytes"])
    if "changes_at_seconds" in notes:
        return time_text(notes["changes_at_seconds"] + plan["other_seconds"])
    ((name, total),) = [pair for pair in notes.items() if pair[0].startswith("changes_at_")]
    return f"{total:.4g} {name.removeprefix('changes_at_').replace('_', ' ')}"


def points_table(points: Iterable[dict[str, Any]]) -> Table:
    """Everything built on the way: size, quality, prediction, whether nothing beats it."""
    numbers = ("size", "quality", "predicted loss")
    made = table("measured on the way", "what", *numbers, "front", numbers=numbers)
    for point in points:
        loss = "" if point["predicted_loss"] is None else f"{point['predicted_loss']:.3g}"
        cells = [
            point["what"],
            size_text(point["size_nbytes"]),
            metric_text(point["quality"]),
            loss,
        ]
        made.add_row(*map(Text, [*cells, "yes" if point["is_best"] else ""]))
    return made
