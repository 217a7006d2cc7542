"""`effc tune`: faster kernels for an artifact, measured on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="How many schedules of kernels to measure.")
    ] = 200,
    seed: shared.Seed = 0,
    as_json: shared.AsJson = False,
) -> None:
    """Measure schedules of an artifact's kernels; keep the best in it and in the database."""
    from effc.progress import progress_on_stderr
    from effc.retuning import Retuning
    from effc.tables import render, tuning_tables

    with progress_on_stderr() as progress:
        result = Retuning(Path(out), trials, seed, progress).run()
    if as_json:
        shared.print_json(result)
        return
    typer.echo(render(tuning_tables(result)), nl=False)
    typer.echo(result["remark"])
