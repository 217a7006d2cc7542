"""Progress on stderr: bars on a terminal, a line per stage elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from effc.interruption import raise_if_stopped

Progress = Callable[[str, int, int], None]


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


@contextmanager
def progress_on_stderr(quiet: bool = False) -> Iterator[Progress]:
    """A progress callback that draws bars, or prints stages where stderr is no terminal.

    Where the number of steps is unknown, a stage's total is 0. What follows a semicolon in a
    stage's name is a remark that changes while it goes on.
    """
    if quiet:
        yield lambda stage, done, total: raise_if_stopped()
    elif sys.stderr.isatty():
        with _bars() as update:
            yield update
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.SpinnerColumn(finished_text="[green]✓[/]"),
        rich_progress.TextColumn("{task.description:<26}"),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.TextColumn("{task.fields[count]:>9}"),
        rich_progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        rich_progress.TextColumn("{task.fields[remark]}"),
    )
    console = Console(file=sys.stderr)
    with rich_progress.Progress(*columns, console=console) as bars:
        tasks: dict[str, rich_progress.TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            raise_if_stopped()
            stage, remark = _split(stage)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None, count="", remark="")
            count = f"{done}/{total}" if total > 1 else str(done) if total == 0 else ""
            bars.update(
                tasks[stage], completed=done, total=total or None, count=count, remark=remark
            )

        yield update
        for task in bars.tasks:
            bars.update(task.id, total=max(task.completed, 1), completed=max(task.completed, 1))


def _lines() -> Progress:
    started = time.monotonic()
    seen: set[tuple[str, bool]] = set()

    def update(stage: str, done: int, total: int) -> None:
        raise_if_stopped()
        stage, remark = _split(stage)
        is_done = 0 < total <= done
        if (stage, is_done) not in seen:
            seen.add((stage, is_done))
            state = " ".join(filter(None, (remark, "done"))) if is_done else "..."
            print(f"effc: {time.monotonic() - started:6.1f} s  {stage} {state}", file=sys.stderr)

    return update


def _split(stage: str) -> tuple[str, str]:
    """A stage's name and the remark that follows it."""
    name, _, remark = stage.partition(";")
    return name, remark.strip()
