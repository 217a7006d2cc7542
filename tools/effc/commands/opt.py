"""`effc opt`: run passes only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effc.commands import options as shared

if TYPE_CHECKING:
    from effc.optimise import Optimisation, Views
    from effc.recipe import Recipe


def command(
    model: shared.Model,
    passes: Annotated[str, typer.Option("-p", "--passes", help="The pipeline to run.")],
    out: Annotated[str | None, typer.Option("-o", "--out", help="The .pt2 file to write.")] = None,
    target: shared.TargetName = "native",
    inputs: shared.Inputs = None,
    calib: Annotated[str | None, typer.Option("--calib", help="Calibration data.")] = None,
    tokenizer: shared.Tokenizer = None,
    dump: Annotated[
        str | None, typer.Option("--dump", help="Folder for the text after every pass.")
    ] = None,
    print_after: Annotated[
        str | None, typer.Option("--print-after", help="Print the program after this pass.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Record the output error after every pass.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Stop after this many passes.")
    ] = None,
    bisect: Annotated[
        str | None,
        typer.Option("--bisect", help="Find the first pass after which this command fails."),
    ] = None,
    exclude: shared.Exclude = None,
    rules: shared.Rules = None,
    seed: shared.Seed = 0,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Run passes on a MODEL and write the result as .pt2."""
    from effc.optimise import Views
    from effc.recipe import make_recipe

    recipe = make_recipe({
        "model": model, "target": target, "passes": passes, "inputs": inputs or [],
        "calib": calib, "tokenizer": tokenizer, "exclude": exclude or [], "set": rules or [],
        "seed": seed, "trust_pickle": trust_pickle,
    })  # fmt: skip
    folder = Path(dump) if dump else None
    views = Views(folder, print_after, compare, limit, lambda text: typer.echo(text, err=as_json))
    if bisect:
        _bisect(recipe, bisect)
    else:
        _optimise(recipe, views, out, as_json)


def _bisect(recipe: "Recipe", command: str) -> None:
    from effc.optimise import Optimisation
    from effc.progress import progress_on_stderr

    with progress_on_stderr() as progress:
        optimisation = Optimisation(recipe, progress)
        optimisation.open()
        found = optimisation.bisect(command)
    _print_notes(optimisation)
    typer.echo(found)


def _optimise(recipe: "Recipe", views: "Views", out: str | None, as_json: bool) -> None:
    from effc.ir import options
    from effc.ir.export.pt2 import save_program
    from effc.ir.text import program_text
    from effc.optimise import Optimisation
    from effc.progress import progress_on_stderr
    from effc.tables import pass_table, render

    with progress_on_stderr() as progress:
        optimisation = Optimisation(recipe, progress)
        optimisation.open()
        report = optimisation.run(views)
    if not options.is_first_worker():
        return
    if out:
        save_program(report.program, Path(out))
    _print_notes(optimisation)
    rows = report.to_json()
    if as_json:
        shared.print_json(rows)
        return
    if not out and not views.print_after:
        typer.echo(program_text(report.program), nl=False)
    typer.echo(render([pass_table(rows)]), nl=False, err=True)


def _print_notes(optimisation: "Optimisation") -> None:
    for note in optimisation.notes:
        typer.echo(f"note: {note}", err=True)
