"""The sources of the running Python's standard library, in a fixed order."""

import os
import sysconfig
from pathlib import Path

TESTS = frozenset({"test", "tests", "idle_test"})
INSTALLED = frozenset({"site-packages", "dist-packages"})
TABLES = frozenset({"encodings", "pydoc_data"})


def root() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def sources(without: frozenset[str] = frozenset()) -> list[Path]:
    """Source files, relative to `root()`, in the order of their names.

    Tests, installed packages, generated tables and the build's configuration are left out.

    Args:
        without: further folders to leave out, by name.
    """
    skipped = TESTS | INSTALLED | TABLES | without
    found = []
    for folder, children, names in os.walk(root()):
        children[:] = [child for child in children if child not in skipped]
        here = Path(folder).relative_to(root())
        found += [here / name for name in names if name.endswith(".py")]
    return sorted((file for file in found if not is_generated(file)), key=Path.as_posix)


def is_generated(file: Path) -> bool:
    """Whether a build wrote the file: `_sysconfigdata*.py` and the folder `config-*`."""
    return file.name.startswith("_sysconfigdata") or file.parts[0].startswith("config-")
