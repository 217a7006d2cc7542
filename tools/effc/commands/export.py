"""`effc export`: a model, compressed or not, in another ecosystem's form."""

from pathlib import Path
from typing import Annotated

import typer

from effc.commands import options as shared


def command(
    subject: Annotated[str, typer.Argument(metavar="OUT|MODEL", help="An artifact or a model.")],
    to: Annotated[str, typer.Option("--to", help="onnx or pt2.")],
    out: Annotated[str, typer.Option("-o", "--out", help="The file to write.")],
    inputs: shared.Inputs = None,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Write an artifact's compressed model, or a MODEL, as ONNX or .pt2."""
    from effc.exporting import export

    found = export(subject, to, Path(out), inputs or [], trust_pickle)
    if as_json:
        shared.print_json(found.to_json())
        return
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(str(found))
