"""Commands of the interface that this version does not have yet."""

from effc.ir.errors import NotAvailableError

ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


def export() -> None:
    """Write another ecosystem's form (not available yet)."""
    raise NotAvailableError("effc export")
