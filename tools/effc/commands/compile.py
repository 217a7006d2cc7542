"""`effc compile`: the whole way from a model to an artifact."""

from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared

Passes = Annotated[
    str | None,
    typer.Option(
        "-p", "--passes", show_default="quantize", help="The pipeline after the clean passes."
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume", show_default="resume", help="Reuse earlier runs' statistics."
    ),
]

MaxLatency = Annotated[
    str | None, typer.Option("--max-latency", help="Longest run: 5ms, or 60% of the baseline.")
]
Search = Annotated[
    int, typer.Option("--search", min=0, help="Try so many recipes of quantization.")
]
Elastic = Annotated[str | None, typer.Option("--elastic", help="Widths to load weights in: 8,4,2.")]
Depths = Annotated[str | None, typer.Option("--depths", help="Numbers of blocks to load: 2,4.")]


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=shared.MODEL_HELP)] = "",
    out: Annotated[str, typer.Option("-o", "--out", help="The artifact folder to write.")] = "out",
    target: Annotated[
        str | None, typer.Option("--target", show_default="native", help=shared.TARGET_HELP)
    ] = None,
    passes: Passes = None,
    recipe: Annotated[
        str | None, typer.Option("-c", "--recipe", help="A YAML file with these settings.")
    ] = None,
    inputs: shared.Inputs = None,
    calib: Annotated[str | None, typer.Option("--calib", help="Calibration data.")] = None,
    tokenizer: shared.Tokenizer = None,
    evaluation: Annotated[str | None, typer.Option("--eval", help="Evaluation data.")] = None,
    metric: shared.Metric = None,
    max_drop: Annotated[
        str | None, typer.Option("--max-drop", help="Largest loss of quality: 1% or 0.5pt.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Largest size: 3MB, or 25% of the baseline's.")
    ] = None,
    max_latency: MaxLatency = None,
    max_memory: Annotated[str | None, typer.Option("--max-memory", hidden=True)] = None,
    search: Search = 0,
    elastic: Elastic = None,
    depths: Depths = None,
    tune: Annotated[
        int, typer.Option("--tune", min=0, help="Measure so many schedules of kernels.")
    ] = 0,
    exclude: shared.Exclude = None,
    rules: shared.Rules = None,
    sizes: shared.Sizes = None,
    threads: shared.Threads = 0,
    seed: shared.Seed = 0,
    resume: Resume = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run the passes and print; build nothing.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Accept a slower result or missed budgets.")
    ] = False,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Compile MODEL for a target into an artifact folder."""
    from effc.ir.errors import NotAvailableError

    if max_memory is not None:
        raise NotAvailableError("--max-memory")
    given = {
        "model": model or None, "target": target, "passes": passes, "inputs": inputs,
        "calib": calib, "tokenizer": tokenizer, "eval": evaluation, "metric": metric,
        "max_drop": max_drop, "max_size": max_size, "max_latency": max_latency,
        "search": search or None, "elastic": _numbers("--elastic", elastic, "widths", "8,4,2"),
        "depths": _numbers("--depths", depths, "depths", "2,4"),
        "exclude": exclude, "set": rules,
        "sizes": shared.parse_sizes(sizes) or None, "threads": threads or None,
        "tune": tune or None, "seed": seed or None, "resume": resume,
        "keep_going": keep_going or None, "trust_pickle": trust_pickle or None,
    }  # fmt: skip
    _run(_merged(recipe, given), Path(out), dry_run, as_json)


def _numbers(option: str, text: str | None, what: str, like: str) -> list[int] | None:
    """Read such as `8,4,2`.

    Raises:
        UsageError: If it has another form.
    """
    from effc.ir.errors import UsageError

    words = [] if text is None else [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"{option} {text!r} are no {what}; write them as in {like}")
    return [int(word) for word in words] or None


def _merged(recipe: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The recipe file's settings, overridden by what stands on the command line."""
    from effc.ir.errors import UsageError
    from effc.recipe import read_recipe

    settings = read_recipe(Path(recipe)) if recipe else {}
    merged = settings | {name: value for name, value in given.items() if value is not None}
    lost = [name for name in settings.get("objects") or [] if not merged.get(name)]
    if lost:
        raise UsageError(
            f"recipe {recipe} was written in Python with objects for {', '.join(map(str, lost))}, "
            "which a file cannot hold; give them by name"
        )
    return merged


def _run(settings: dict[str, Any], out: Path, dry_run: bool, as_json: bool) -> None:
    from effc.compiler import Compilation
    from effc.ir.errors import UsageError
    from effc.preparation import Sources
    from effc.progress import progress_on_stderr
    from effc.recipe import make_recipe

    recipe = make_recipe(settings)
    if not recipe.model:
        raise UsageError("no MODEL given")
    with progress_on_stderr() as progress:
        compilation = Compilation(recipe, Sources(recipe.model), progress)
        if dry_run:
            rows = compilation.plan()
        else:
            report = compilation.run(out).report
    if dry_run:
        _print_plan(rows, compilation.notes, as_json)
    else:
        _print_result(report, out, as_json)


def _print_plan(rows: list[dict[str, Any]], notes: list[str], as_json: bool) -> None:
    from effc.explanation import layers_of, plan_note
    from effc.plan_tables import plan_table
    from effc.tables import layer_table, pass_table, render

    if as_json:
        shared.print_json(rows)
        return
    parts = [pass_table(rows)]
    if layers := layers_of(rows):
        parts.append(layer_table(layers))
    if plan := plan_note(rows):
        parts.append(plan_table(layers, plan))
    typer.echo(render(parts), nl=False)
    for note in notes:
        typer.echo(f"note: {note}")


def _print_result(report: dict[str, Any], out: Path, as_json: bool) -> None:
    from effc.tables import comparison_table, render

    if as_json:
        shared.print_json(report)
        return
    typer.echo(render([comparison_table(report)]), nl=False)
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    for problem in report["verdict"]["problems"]:
        typer.echo(f"problem: {problem}")
    typer.echo(f'The artifact lies in {out}; load it with effc.load("{out}"), or `effc run {out}`.')
