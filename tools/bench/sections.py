"""Sections of the page of bits, and how their rows are measured: some side by side."""

import importlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Protocol

import torch
from rich.progress import Progress
from rich.table import Table

SECTIONS = {
    "allocation": "bench.allocation",
    "front": "bench.bit_front",
    "budgets": "bench.bit_budgets",
    "rounding": "bench.rounding",
    "eight-bits": "bench.eight_bits",
}
TIMED = {"budgets"}  # takes times, so nothing may run beside it
Row = dict[str, Any]
Job = tuple[str, tuple[str, ...]]


class Section(Protocol):
    """What a section's module offers."""

    TITLE: str
    ABOUT: str
    MODELS: tuple[str, ...]

    def rows_of(self, progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
        """Measure what is named, or all; every row has the `section` it is of."""

    def tables_of(self, rows: Sequence[Row]) -> list[Table]:
        """Tables of the section's rows."""

    def lines_of(self, rows: Sequence[Row]) -> Iterator[str]:
        """What they show, a line each."""


def section_of(name: str) -> Section:
    """The module of a section."""
    module: Any = importlib.import_module(SECTIONS[name])
    return module  # type: ignore[no-any-return]


def jobs_of(names: Sequence[str], wanted: Sequence[str]) -> list[Job]:
    """What is measured at once: a model of a section; those that take longest, at the end, first.

    Args:
        names: Keys of `SECTIONS`.
        wanted: Models; all if empty.
    """
    jobs: list[Job] = []
    for name in names:
        models = [model for model in section_of(name).MODELS if not wanted or model in wanted]
        jobs += [(name, (model,)) for model in models]
    return jobs[::-1]


def side_by_side(jobs: Sequence[Job], progress: Progress) -> Iterator[list[Row]]:
    """Rows of each job when it is done, as many jobs at once as there are processors."""
    task = progress.add_task("sections", total=len(jobs))
    workers = max(1, min(len(jobs), len(os.sched_getaffinity(0))))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(measured, job) for job in jobs]):
            yield done.result()
            progress.advance(task)


def measured(job: Job) -> list[Row]:
    """Rows of a job on one thread."""
    torch.set_num_threads(1)
    name, wanted = job
    with Progress(disable=True) as progress:
        return list(section_of(name).rows_of(progress, wanted))
