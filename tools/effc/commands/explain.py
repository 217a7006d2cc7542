"""`effc explain`: what was decided for each layer, and why."""

import json
from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    layer: Annotated[
        str | None, typer.Argument(metavar="[LAYER]", help="A layer's name or a pattern.")
    ] = None,
    as_json: shared.AsJson = False,
) -> None:
    """Show what was decided for each layer, what was left alone, and a list to exclude."""
    from effc.artifact import Artifact
    from effc.ir.errors import UsageError

    report = Artifact(out).report
    facts = explained(report)
    if layer is not None:
        known = list(facts["layers"])
        facts["layers"] = {n: v for n, v in facts["layers"].items() if fnmatchcase(n, layer)}
        facts["refusals"] = [r for r in facts["refusals"] if fnmatchcase(r["source"], layer)]
        if not facts["layers"] and not facts["refusals"]:
            raise UsageError(
                f"layer {layer!r} matches nothing; layers are {', '.join(known[:6])}, ..."
            )
    if as_json:
        typer.echo(json.dumps(facts, indent=1, default=str))
    else:
        _print(report, facts)


def explained(report: dict[str, Any]) -> dict[str, Any]:
    """Decisions per layer with their share of the time, and every refusal, from a report."""
    total = sum(row["seconds"] for row in report["profile"]) or 1.0
    seconds: dict[str, float] = {}
    for row in report["profile"]:
        seconds[row["source"]] = seconds.get(row["source"], 0.0) + row["seconds"]
    layers: dict[str, dict[str, Any]] = {}
    for row in report["passes"]:
        for name, notes in row["notes"].get("layers", {}).items():
            layers[name] = {**notes, "time_share": seconds.get(name, 0.0) / total}
    refusals = [
        {"pass": row["text"], "rule": entry["rule"], "reason": entry["reason"], "source": source}
        for row in [*report["clean"], *report["passes"], *report["lowering"]]
        for entry in row["refusals"]
        for source in entry["sources"]
    ]
    order = sorted(layers, key=lambda name: layers[name].get("sqnr_db") or 0.0)
    return {"layers": layers, "refusals": refusals, "most_sensitive": order[:5]}


def _print(report: dict[str, Any], facts: dict[str, Any]) -> None:
    from effc.tables import explain_table, render

    typer.echo(render([explain_table(facts["layers"])]), nl=False)
    for entry in facts["refusals"]:
        typer.echo(f"left alone by {entry['rule']}: {entry['source']}: {entry['reason']}")
    if facts["most_sensitive"]:
        listing = " ".join(f'--exclude "{name}"' for name in facts["most_sensitive"])
        typer.echo(f"to keep the most sensitive layers in float: {listing}")
