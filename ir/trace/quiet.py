"""Silence for libraries that log, warn and print around what effc reports in one line."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Drop log records, warnings, prints and progress bars while the block runs.

    Everything is as before afterwards; what the block raises passes through.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        silent = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), silent[0], silent[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
