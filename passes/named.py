"""Parts of a pass that are known by name: each is imported when it is asked for."""

import importlib
from collections.abc import Mapping
from typing import Any

from effc.ir.errors import UsageError


def made(what: str, places: Mapping[str, str], name: str, *others: str) -> Any:
    """An object of the class of a name.

    Args:
        what: What these are, for the error.
        places: `module:Class` by name.
        name: A key of `places`.
        others: Names that mean something where this is asked, but no class.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in places:
        known = ", ".join([*others, *places])
        raise UsageError(f"unknown {what} {name!r}; there are: {known}")
    module, _, kind = places[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
