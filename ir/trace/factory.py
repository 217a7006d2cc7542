"""`package.module:factory`: looking up and calling what a user wrote."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from effc.ir.errors import EffcError, UsageError
from effc.ir.trace.failures import location, one_line

FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(text: str) -> bool:
    """Whether a text has the form `package.module:name`."""
    return FORM.fullmatch(text) is not None


def look_up(reference: str) -> Any:
    """Import the object `package.module:name` stands for.

    The current folder is searched first, as `python -m` does; console scripts do not.

    Raises:
        UsageError: If the module cannot be imported or has no such name.
    """
    module_name, _, path = reference.partition(":")
    with current_folder_importable():
        try:
            found = importlib.import_module(module_name)
        except EffcError:
            raise
        except Exception as error:  # a user's module raises whatever it raises
            raise UsageError(f"cannot import {module_name}: {described(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{module_name} has no {path}; check the name after the colon")
        found = getattr(found, name)
    return found


def call(factory: Any, reference: str) -> Any:
    """Call a user's factory without arguments.

    Raises:
        UsageError: If it raises, with the reason and the place in one line.
    """
    with current_folder_importable():
        try:
            return factory()
        except EffcError:
            raise
        except Exception as error:  # a user's function raises whatever it raises
            raise UsageError(f"{reference} failed: {described(error)}") from error


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Let imports find modules in the current folder while the block runs."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def described(error: BaseException) -> str:
    """The reason and the place of an error in a user's code, in one line."""
    where = location(error)
    return one_line(error) + (f" at {where}" if where else "")
