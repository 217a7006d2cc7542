"""`effc report`: the record of a compile."""

from pathlib import Path
from typing import Annotated

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    html: Annotated[
        str | None, typer.Option("--html", help="Write a page with the tables and plots.")
    ] = None,
    as_json: shared.AsJson = False,
) -> None:
    """Print the report of an artifact, or draw it as a page."""
    from effc.artifact import Artifact

    report = Artifact(out).report
    if html:
        from effc.pages import write_page

        write_page(report, Path(html))
        typer.echo(f"wrote {html}", err=as_json)
    if as_json:
        shared.print_json(report)
    elif not html:
        typer.echo(str(report), nl=False)
