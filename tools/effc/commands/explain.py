"""`effc explain`: what was decided for each layer, and why."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    layer: Annotated[
        str | None, typer.Argument(metavar="LAYER", help="A layer's name or a pattern.")
    ] = None,
    front: Annotated[
        str | None, typer.Option("--front", help="Draw the measured points as a PNG file.")
    ] = None,
    as_json: shared.AsJson = False,
) -> None:
    """Show what was decided for each layer, and why."""
    from effc.artifact import Artifact
    from effc.explanation import explained

    report = Artifact(out).report
    facts = explained(report)
    if front:
        from effc.front import draw_front

        draw_front(report, Path(front))
        typer.echo(f"wrote {front}", err=True)
    if layer is not None:
        facts = _narrowed(facts, layer)
    if as_json:
        shared.print_json(facts)
    else:
        _print(facts)


def _narrowed(facts: dict[str, Any], pattern: str) -> dict[str, Any]:
    """The facts about the layers that match."""
    from effc.ir.errors import UsageError

    layers = {n: v for n, v in facts["layers"].items() if fnmatchcase(n, pattern)}
    refusals = [r for r in facts["refusals"] if fnmatchcase(r["source"], pattern)]
    groups = [g for g in facts["groups"] if fnmatchcase(g["name"], pattern)]
    if not layers and not refusals and not groups:
        known = [*facts["layers"]]
        more = ", ..." if len(known) > 6 else ""
        raise UsageError(
            f"layer {pattern!r} matches nothing; layers are {', '.join(known[:6]) or 'none'}{more}"
        )
    sensitive = [name for name in facts["most_sensitive"] if name in layers]
    narrowed = {"layers": layers, "refusals": refusals, "groups": groups}
    return {**facts, **narrowed, "most_sensitive": sensitive}


def _print(facts: dict[str, Any]) -> None:
    from effc.plan_tables import group_table, plan_table, points_table
    from effc.tables import layer_table, render

    if facts["layers"]:
        typer.echo(render([layer_table(facts["layers"])]), nl=False)
        if facts["plan"]:
            tables = [plan_table(facts["layers"], facts["plan"]), points_table(facts["measured"])]
            typer.echo(render(tables), nl=False)
    elif not facts["groups"]:
        typer.echo("no layer was changed")
    if facts["groups"]:
        typer.echo(render([group_table(facts["groups"], facts["plan"])]), nl=False)
    for entry in facts["refusals"]:
        where = f"{entry['source']}: " if entry["source"] else ""
        typer.echo(f"left alone by {entry['rule']}: {where}{entry['reason']}")
    if facts["most_sensitive"]:
        listing = " ".join(f'--exclude "{name}"' for name in facts["most_sensitive"])
        typer.echo(f"to keep the most sensitive layers in float: {listing}")
