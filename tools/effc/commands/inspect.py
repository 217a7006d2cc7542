"""`effc inspect`: what a model is, and what a target cannot do with it."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def command(
    model: shared.Model,
    target: shared.TargetName = "native",
    inputs: shared.Inputs = None,
    sizes: shared.Sizes = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Show what pruning could cut, and what it could not.")
    ] = False,
    graph: Annotated[
        str | None, typer.Option("--graph", help="Draw the groups: FILE.svg or FILE.html.")
    ] = None,
    trust_pickle: shared.TrustPickle = False,
    as_json: shared.AsJson = False,
) -> None:
    """Show what a MODEL is, and everything a target lacks for it."""
    from effc.backends.base import backend_of
    from effc.groups_view import checked_place, draw_groups, group_rows, group_table
    from effc.ir.errors import UnsupportedError
    from effc.ir.target import Target
    from effc.ir.trace import open_model
    from effc.preparation import cleaned
    from effc.progress import progress_on_stderr
    from effc.tables import render

    wanted = Target.parse(target)
    place = checked_place(Path(graph)) if graph else None
    notes: list[str] = []
    with progress_on_stderr() as progress:
        progress("read model", 0, 1)
        program = open_model(model, inputs=inputs or [], trust_pickle=trust_pickle, notes=notes)
        progress("read model", 1, 1)
        clean = cleaned(program, progress).program
    facts = describe(clean, shared.parse_sizes(sizes))
    facts["notes"] = notes
    missing = backend_of(wanted.backend).unsupported(clean, wanted)
    facts["target"] = {"name": wanted.name, "unsupported": [vars(entry) for entry in missing]}
    if groups or place:
        facts["groups"] = group_rows(clean)
    if place:
        draw_groups(clean.name, facts["groups"], place)
    if as_json:
        shared.print_json(facts)
    else:
        _print(facts)
        if groups:
            typer.echo(render([group_table(facts["groups"])]), nl=False)
    if missing:
        raise UnsupportedError(f"target {wanted}", missing)


def describe(program: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Inputs, outputs, operators, parameters and cost of a program."""
    from effc.ir.cost import program_cost
    from effc.ir.opspec import op_name
    from effc.sample import sample_sizes

    at = sample_sizes(program, sizes)
    operators = Counter(
        op_name(node)
        for module in program.methods.values()
        for node in module.graph.nodes
        if node.op == "call_function"
    )
    signature = program.signature
    return {
        "name": program.name,
        "inputs": [str(spec) for spec in signature.inputs],
        "outputs": [str(spec) for spec in signature.outputs],
        "symbols": [str(symbol) for symbol in program.symbols.values()],
        "parameters": sum(weight.numel() for weight in unique_weights(program)),
        "weight_nbytes": program.weight_nbytes,
        "sizes": at,
        "macs": program_cost(program).at(at)["macs"],
        "operators": dict(operators.most_common()),
    }


def unique_weights(program: Any) -> list[Any]:
    """Weights of a program, shared ones once."""
    return list({w.untyped_storage().data_ptr(): w for w in program.weights().values()}.values())


def _print(facts: dict[str, Any]) -> None:
    from effc.units import size_text

    at = ", ".join(f"{name}={value}" for name, value in facts["sizes"].items())
    typer.echo(facts["name"])
    for word in ("inputs", "outputs", "symbols"):
        for text in facts[word]:
            typer.echo(f"  {word[:-1]:<8} {text}")
    typer.echo(f"  {facts['parameters']:,} parameters, {size_text(facts['weight_nbytes'])}")
    typer.echo(f"  {facts['macs']:,} multiply-adds" + (f" at {at}" if at else ""))
    for name, count in facts["operators"].items():
        typer.echo(f"  {count:>6} x {name}")
    for note in facts["notes"]:
        typer.echo(f"  note: {note}")
    missing = facts["target"]["unsupported"]
    typer.echo(f"target {facts['target']['name']}: " + ("all supported" if not missing else ""))
    for entry in missing:
        typer.echo(f"  {entry['count']} x {entry['op']} at {entry['source']}: {entry['reason']}")
