"""Commands of the interface that this version does not have yet."""

from typing import Annotated

import typer

from effc.ir.errors import NotAvailableError

Rest = Annotated[list[str] | None, typer.Argument(hidden=True)]


def tune(rest: Rest = None, trials: Annotated[int, typer.Option("--trials")] = 0) -> None:
    """Search kernel schedules (not available yet)."""
    raise NotAvailableError("effc tune")


def export(
    rest: Rest = None,
    to: Annotated[str, typer.Option("--to")] = "",
    out: Annotated[str, typer.Option("-o", "--out")] = "",
) -> None:
    """Write the compressed model in another ecosystem's form (not available yet)."""
    raise NotAvailableError("effc export")
