"""`effc targets` and `effc passes`: what exists, with options and facts."""

import dataclasses
import inspect
from typing import Annotated, Any

import typer

from effc.commands import options as shared


def targets(as_json: shared.AsJson = False) -> None:
    """List the targets with their facts."""
    from effc.ir.target import AMX, PLANNED, known_targets

    rows = [dataclasses.asdict(target) for target in known_targets().values()]
    if as_json:
        shared.print_json({"targets": rows, "planned": PLANNED})
        return
    for row in rows:
        typer.echo(f"{row['name']:<16} backend {row['backend']}, cpu {row['cpu'] or '-'}, "
                   f"{row['vector_bits']}-bit vectors, {row['cores']} cores")  # fmt: skip
        if row["features"]:
            typer.echo(f"{'':<16} {' '.join(row['features'])}")
    typer.echo(f"not available yet: {', '.join(PLANNED)}")
    typer.echo(f"not used where a processor has them: {', '.join(AMX)}")


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A pass, for its options.")
    ] = None,
    as_json: shared.AsJson = False,
) -> None:
    """List the passes, or show one with its options."""
    from effc.passes.registry import PASSES, pass_class

    names = [name] if name else list(PASSES)
    facts = [_describe(each, pass_class(each)) for each in names]
    if as_json:
        shared.print_json(facts)
        return
    for entry in facts:
        typer.echo(f"{entry['name']:<18} {entry['summary']}")
        if name:
            _print_options(entry)


def _describe(name: str, kind: Any) -> dict[str, Any]:
    description = inspect.getdoc(kind) or ""
    options = [
        {"name": field.name, "type": _type_text(field.type), "default": field.default}
        for field in dataclasses.fields(kind)
    ]
    summary, _, rest = description.partition("\n")
    return {"name": name, "summary": summary, "description": rest.strip(), "options": options}


def _type_text(annotation: Any) -> str:
    text = getattr(annotation, "__name__", str(annotation))
    return str(annotation).removeprefix("typing.") if text == "Literal" else text


def _print_options(entry: dict[str, Any]) -> None:
    if entry["description"]:
        typer.echo(f"\n{entry['description']}\n")
    for option in entry["options"]:
        typer.echo(f"  {option['name']}={option['default']}  ({option['type']})")
