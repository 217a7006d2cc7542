"""Output folders that appear whole or not at all, whatever stops the work on them."""

import errno
import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from uuid import uuid4

from effc.backends.artifact import MANIFEST, WRITTEN_FILES
from effc.ir.errors import UsageError

RESULT = "artifact"
MARK = "effc-"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder`; its subfolder `artifact` takes the place of `folder`.

    That happens in one step and only if the block succeeds. Whatever stops it, `folder` stays as it
    was and the scratch folder is removed; those that a killed process left are removed, too.

    Raises:
        UsageError: If the place cannot be written to, or holds something that is no artifact.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    made = [parent for parent in folder.parents if not parent.exists()]
    scratch = folder.with_name(f".{folder.name}.{MARK}{uuid4().hex[:8]}")
    handle = None
    try:
        with suppressed_lock_errors(), _locked(_existing(folder)):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            _sweep(folder)
            scratch.mkdir(mode=0o700)
            handle = _lock(scratch)
        (scratch / RESULT).mkdir()
        yield scratch
        _swap(scratch, folder)
    except OSError as error:
        if not _is_about(error, scratch):
            raise
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        with undisturbed():
            shutil.rmtree(scratch, ignore_errors=True)
            if handle is not None:
                os.close(handle)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
