"""Environment variables, read in this module only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Where effc keeps what can be made again (`EFFC_CACHE`, else the user's cache directory)."""
    chosen = os.environ.get("EFFC_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "effc"


def compiler() -> str | None:
    """The C compiler the user asks for (`EFFC_CC`), or None to choose one."""
    return os.environ.get("EFFC_CC") or None


def default_threads() -> int:
    """Number of processors this process may run on (`EFFC_THREADS` overrides)."""
    chosen = os.environ.get("EFFC_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wants_traceback() -> bool:
    """Whether the command line shows tracebacks (`EFFC_TRACEBACK=1`), for effc's own developers."""
    return os.environ.get("EFFC_TRACEBACK") == "1"


def tuning_database() -> Path:
    """Where measured schedules are kept (`EFFC_TUNING`, else in the user's data directory)."""
    chosen = os.environ.get("EFFC_TUNING")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "effc" / "tuning.jsonl"


def worker() -> tuple[int, int]:
    """This process's number and how many train together (`RANK`, `WORLD_SIZE` of `torchrun`)."""
    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(world)) if rank.isdigit() and world.isdigit() else (0, 1)


def is_first_worker() -> bool:
    """Whether this process, of those that train together, is the one that writes results."""
    return worker()[0] == 0


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that a library reads, set while something runs; what they were comes back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
