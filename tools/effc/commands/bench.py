"""`effc bench`: latency, memory and size side by side in one run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    out: shared.Out,
    against: Annotated[
        str | None, typer.Option("--against", help="A MODEL to measure beside it, in PyTorch.")
    ] = None,
    peers: Annotated[
        str, typer.Option("--peers", help="Comma-separated: onnxruntime, openvino, torch.")
    ] = "",
    inputs: shared.Inputs = None,
    sizes: shared.Sizes = None,
    threads: shared.Threads = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds.")] = 15,
    profile: Annotated[bool, typer.Option("--profile", help="Print the time per kernel.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Measure an artifact side by side with peers."""
    from effc.benchmark import Contest, run_benchmark
    from effc.progress import progress_on_stderr

    names = [name.strip() for name in peers.split(",") if name.strip()]
    contest = Contest(
        Path(out),
        against,
        names,
        inputs or [],
        shared.parse_sizes(sizes),
        threads,
        rounds,
        profile,
    )
    with progress_on_stderr() as progress:
        result = run_benchmark(contest, progress)
    if as_json:
        shared.print_json(result)
    else:
        _print(result, profile)


def _print(result: dict[str, Any], profile: bool) -> None:
    from effc.tables import benchmark_table, kernel_table, render, start_table

    parts = [benchmark_table(result), start_table(result)]
    if profile:
        parts.append(kernel_table(result, count=len(result["profile"])))
    typer.echo(render(parts), nl=False)
    for note in result["notes"]:
        typer.echo(f"note: {note}")
