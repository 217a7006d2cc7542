"""`effc opt`: run passes only."""

import json
from pathlib import Path
from typing import Annotated

import typer

from effc.commands import options as shared


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
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", help="Layers to leave alone (a pattern).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Run passes on MODEL and write the result as .pt2, or print it."""
    from effc.ir.data import open_data
    from effc.ir.export.pt2 import save_program
    from effc.ir.target import Target
    from effc.ir.text import program_text
    from effc.ir.trace import open_model
    from effc.optimise import bisected, instruments_for
    from effc.passes.base import PassContext
    from effc.passes.manager import PassManager
    from effc.tables import pass_table, render

    program = open_model(model, inputs=inputs or [], trust_pickle=trust_pickle)
    data = None
    if calib:
        data = open_data(calib, program.signature, program.symbols, tokenizer=tokenizer)
    context = PassContext(
        target=Target.parse(target), calibration=data, exclude=tuple(exclude or ()), seed=seed
    )
    manager = PassManager.parse(passes)
    if bisect:
        typer.echo(bisected(manager, program, context, bisect))
        return
    instruments = instruments_for(
        program, Path(dump) if dump else None, print_after, compare, limit, typer.echo
    )
    report = PassManager(manager.passes, instruments).run(program, context)
    if out:
        save_program(report.program, Path(out))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1, default=str))
        return
    if not out and not print_after:
        typer.echo(program_text(report.program), nl=False)
    plan = {"clean": report.to_json(), "passes": [], "lowering": []}
    typer.echo(render([pass_table(plan)]), nl=False, err=True)
