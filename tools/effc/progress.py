"""Progress on stderr: bars on a terminal, a line per stage elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from effc.compiler import Progress


@contextmanager
def progress_on_stderr(quiet: bool = False) -> Iterator[Progress]:
    """A progress callback that draws bars, or prints stages where stderr is no terminal."""
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        yield from _bars()
    else:
        yield _lines()


def _bars() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description:<24}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, rich_progress.TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=max(total, 1))
            bars.update(tasks[stage], completed=done, total=max(total, 1))

        yield update


def _lines() -> Progress:
    started = time.monotonic()
    seen: set[tuple[str, bool]] = set()

    def update(stage: str, done: int, total: int) -> None:
        key = (stage, done >= total)
        if key not in seen:
            seen.add(key)
            state = "done" if done >= total else "..."
            print(f"effc: {time.monotonic() - started:6.1f} s  {stage} {state}", file=sys.stderr)

    return update
