"""Decisions per layer, drawn from a report."""

from glob import escape
from typing import Any

from effc.front import measured_points
from effc.sensitivity import layer_decibel
from effc.tables import all_rows

MOST_SENSITIVE = 5


def explained(report: dict[str, Any]) -> dict[str, Any]:
    """Decisions per layer with their share of the time, and every refusal, from a report.

    Returns:
        `layers`: notes by layer; `refusals`: what was left alone, by which rule and why;
        `most_sensitive`: patterns of the layers with the lowest signal-to-noise ratio;
        `plan`: totals and limits of the plan, where a pass made one; `groups`: how many channels
        each group kept; `measured`: everything that was built on the way.
    """
    layers = layers_of(report["passes"])
    shares = _time_shares(report["profile"])
    for name, notes in layers.items():
        notes["time_share"] = shares.get(name.partition("#")[0], 0.0)
    refusals = [
        {"pass": row["text"], "rule": entry["rule"], "reason": entry["reason"], "source": source}
        for row in all_rows(report)
        for entry in row["refusals"]
        for source in entry["sources"]
    ]
    order = sorted(layers, key=lambda name: layer_decibel(layers[name]))
    names = dict.fromkeys(name.partition("#")[0] for name in order)
    return {
        "layers": layers,
        "refusals": refusals,
        "plan": plan_note(report["passes"]),
        "groups": groups_of(report["passes"]),
        "measured": measured_points(report),
        "most_sensitive": [escape(name) for name in [*names][:MOST_SENSITIVE]],
    }


def plan_note(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What a planning pass says of its plan, from the report rows of a pipeline."""
    notes = [row["notes"]["plan"] for row in rows if "plan" in row["notes"]]
    return dict(notes[-1]) if notes else None


def groups_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What passes say of the groups they cut, in order."""
    return [dict(group) for row in rows for group in row["notes"].get("groups", ())]


def layers_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Notes per layer of some passes; a later pass adds to an earlier one's."""
    layers: dict[str, dict[str, Any]] = {}
    for row in rows:
        for name, notes in row["notes"].get("layers", {}).items():
            layers[name] = {**layers.get(name, {}), **notes}
    return layers


def _time_shares(profile: list[dict[str, Any]]) -> dict[str, float]:
    total = sum(row["seconds"] for row in profile) or 1.0
    shares: dict[str, float] = {}
    for row in profile:
        shares[row["source"]] = shares.get(row["source"], 0.0) + row["seconds"] / total
    return shares
