"""Output folders that appear whole or not at all, whatever stops the work on them."""

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from effc.backends.reading import foreign_file, is_artifact
from effc.ir.errors import UsageError

RESULT = "artifact"
MARK = "effc-"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
HERE, RENAME_EXCHANGE = -100, 2  # of Linux: AT_FDCWD and a flag of renameat2
HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder`; its subfolder `artifact` takes the place of `folder`.

    That happens in one step and only if the block succeeds. Whatever stops it, `folder` stays as it
    was and the scratch folder is removed; scratch folders of killed processes are removed, too.

    Raises:
        UsageError: If the place cannot be written to, or holds something that is no artifact.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    with _scratch_beside(folder) as scratch:
        try:
            (scratch / RESULT).mkdir()
            yield scratch
            _swap(scratch, folder)
        except OSError as error:
            if not _is_about(error, scratch):
                raise
            raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error


def check_replaceable(folder: Path) -> None:
    """Make sure that nothing but an artifact or an empty folder would be replaced.

    Raises:
        UsageError: If something else is there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another output folder")
    if folder == Path.cwd():
        raise UsageError(f"{folder} is the current folder; choose another output folder")
    if not is_artifact(folder) and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is no artifact; choose another output folder")
    if (foreign := foreign_file(folder)) is not None:
        raise UsageError(
            f"{folder} holds {foreign}, which is no part of an artifact; move it or choose "
            "another output folder"
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while the block runs; they arrive when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in HELD}
    try:
        try:
            _handle(dict.fromkeys(HELD, hold))
            yield
        finally:
            _handle(before)
    finally:
        _handle(before)  # again: a signal may have cut off the first time
        for each in received:
            signal.raise_signal(each)


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _scratch_beside(folder: Path) -> Iterator[Path]:
    place = _Place(folder)
    try:
        try:
            with undisturbed():
                place.take()
            yield place.scratch
        finally:
            place.leave()
    finally:
        place.leave()  # again: a signal may have cut off the first time


class _Place:
    """A scratch folder beside an output folder, and what was made to get there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder.with_name(f".{folder.name}.{MARK}{uuid4().hex[:8]}")
        self.made = [parent for parent in folder.parents if not parent.exists()]
        self.held: int | None = None

    def take(self) -> None:
        """Make the scratch folder and lock it.

        Raises:
            UsageError: If that is not possible.
        """
        parent = self.folder.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with _locked(parent):
                _sweep(self.folder)
                self.scratch.mkdir(mode=0o700)
                self.held = _lock(self.scratch)
        except OSError as error:
            is_file = isinstance(error, FileExistsError)
            reason = os.strerror(errno.ENOTDIR) if is_file else error.strerror
            raise UsageError(f"cannot write to {parent}: {reason}") from error

    def leave(self) -> None:
        """Remove the scratch folder, and parents that were made for nothing."""
        with undisturbed():
            shutil.rmtree(self.scratch, ignore_errors=True)
            if self.held is not None:
                os.close(self.held)
                self.held = None
            for parent in self.made:
                with suppress(OSError):  # not empty: it holds the result
                    parent.rmdir()


def _sweep(folder: Path) -> None:
    """Remove scratch folders nobody holds: what a killed process left."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.{MARK}*"):
        held = _lock(path)
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _swap(scratch: Path, folder: Path) -> None:
    """Put the result where `folder` is; two processes that do so at once follow each other."""
    old = scratch / "old"
    with undisturbed(), _locked(folder.parent):
        check_replaceable(folder)
        if folder.exists():
            if _exchanged(scratch / RESULT, folder):
                return
            os.rename(folder, old)
        try:
            os.rename(scratch / RESULT, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise


def _exchanged(first: Path, second: Path) -> bool:
    """Let two folders change places in one step, so that neither is missing at any time.

    Returns:
        Whether that was done; not every system and file system can.
    """
    try:
        exchange = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return exchange(HERE, paths[0], HERE, paths[1], RENAME_EXCHANGE) == 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    held = _lock(folder, wait=True)
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that locks a folder until it is closed; None where that is not possible."""
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(held)
        return None
    return held


def _is_about(error: OSError, scratch: Path) -> bool:
    """Whether an error says that the scratch folder cannot be written."""
    if error.errno in NO_ROOM:
        return True
    return isinstance(error.filename, str) and Path(error.filename).is_relative_to(scratch)
