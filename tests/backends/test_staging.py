"""An output folder appears whole or not at all, whatever stops the work on it."""

import errno
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from effc.backends import staging
from effc.backends.staging import RESULT, check_replaceable, replacing
from effc.ir.errors import UsageError

LONGEST_SECONDS = 60
Write = Callable[[Path, str], None]
Version = Callable[[Path], str | None]
Names = Callable[[Path], list[str]]


def raising(folder: Path, error: BaseException) -> None:
    with replacing(folder) as scratch:
        (scratch / RESULT / "half").write_text("written")
        raise error


def test_written_and_replaced(out: Path, write: Write, version: Version, only: Names) -> None:
    for text in ("first", "second"):
        write(out, text)
        assert version(out) == text
        assert only(out.parent) == ["out"]


def test_parents_are_made(tmp_path: Path, write: Write, version: Version, only: Names) -> None:
    out = tmp_path / "a" / "b" / "out"
    with pytest.raises(ZeroDivisionError):
        raising(out, ZeroDivisionError())
    assert only(tmp_path) == []
    write(out, "new")
    assert version(out) == "new"
    (tmp_path / "x").mkdir()
    with pytest.raises(ZeroDivisionError):
        raising(tmp_path / "x" / "y" / "out", ZeroDivisionError())
    assert only(tmp_path) == ["a", "x"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), OSError("odd")]
)
def test_errors_leave_what_was_there(
    error: BaseException, out: Path, write: Write, version: Version, only: Names
) -> None:
    for before in (None, "old"):
        if before:
            write(out, before)
        with pytest.raises(type(error)):
            raising(out, error)
        assert version(out) == before
        assert only(out.parent) == (["out"] if before else [])


def test_symbolic_links_lead_to_the_folder(
    out: Path, tmp_path: Path, write: Write, version: Version
) -> None:
    write(out, "old")
    (tmp_path / "link").symlink_to("out")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert version(out) == "new"
    (tmp_path / "later").symlink_to("made")
    write(tmp_path / "later", "new")
    assert version(tmp_path / "made") == "new"


def test_without_exchange_the_folder_is_renamed(
    out: Path, monkeypatch: pytest.MonkeyPatch, write: Write, version: Version, only: Names
) -> None:
    monkeypatch.setattr(staging, "_exchanged", lambda first, second: False)
    for text in ("first", "second"):
        write(out, text)
        assert version(out) == text
        assert only(out.parent) == ["out"]


def test_foreign_things_stay(
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    version: Version,
    only: Names,
) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(UsageError) as caught:
            write(folder, "new")
        return str(caught.value)

    out.write_text("mine")
    assert refusal(out) == f"{out} is a file; choose another output folder"
    assert refusal(out / "below") == f"cannot write to {out}: Not a directory"
    out.unlink()
    out.mkdir()
    (out / "notes").write_text("mine")
    assert refusal(out) == f"{out} exists and is no artifact; choose another output folder"
    (out / "notes").unlink()
    write(out, "old")
    (out / "notes").mkdir()
    assert refusal(out) == (
        f"{out} holds notes, which is no part of an artifact; move it or choose "
        "another output folder"
    )
    (out / "notes").rmdir()
    monkeypatch.chdir(out)
    for name in (".", "", "../out"):
        assert refusal(Path(name)) == f"{out} is the current folder; choose another output folder"
    assert version(out) == "old"
    assert only(tmp_path) == ["out"]


def test_foreign_files_that_appear_while_it_works(
    out: Path, fill: Write, write: Write, version: Version, only: Names
) -> None:
    write(out, "old")
    with pytest.raises(UsageError, match=r"holds notes, which is no part of an artifact"):
        late_file(out, fill)
    assert (out / "notes").read_text() == "mine"
    (out / "notes").unlink()
    assert version(out) == "old"
    assert only(out.parent) == ["out"]


def late_file(out: Path, fill: Write) -> None:
    with replacing(out) as scratch:
        fill(scratch / RESULT, "new")
        (out / "notes").write_text("mine")


def test_empty_folders_may_be_replaced(out: Path, write: Write, version: Version) -> None:
    out.mkdir()
    check_replaceable(out)
    write(out, "new")
    assert version(out) == "new"


def test_places_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, out: Path, write: Write, only: Names
) -> None:
    proc = Path("/proc/effc/out")
    with pytest.raises(
        UsageError, match=r"^cannot write to /proc/effc: No such file or directory$"
    ):
        write(proc, "new")
    name = "x" * 250
    message = f"^cannot write to {out.parent}: File name too long$"
    with pytest.raises(UsageError, match=message):
        write(out.parent / name, "new")
    assert only(out.parent) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_full_disks(number: int, out: Path, write: Write, version: Version, only: Names) -> None:
    write(out, "old")
    with pytest.raises(UsageError) as caught:
        raising(out, OSError(number, os.strerror(number)))
    assert str(caught.value) == f"cannot write {out}: {os.strerror(number)}"
    assert version(out) == "old"
    assert only(out.parent) == ["out"]


def test_files_that_may_not_grow(out: Path, write: Write, version: Version, only: Names) -> None:
    """A real limit of the system instead of an error made up."""
    write(out, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UsageError, match=f"^cannot write {out}: File too large$"):
            write(out, "n" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert version(out) == "old"
    assert only(out.parent) == ["out"]


def test_errors_of_other_files_are_not_about_the_output(out: Path) -> None:
    with pytest.raises(FileNotFoundError):
        raising(out, FileNotFoundError(errno.ENOENT, "missing", "/data/calibration"))


def test_what_killed_processes_left_is_swept(
    out: Path, fill: Write, write: Write, version: Version, only: Names
) -> None:
    left, other = out.parent / ".out.effc-0a1b2c3d", out.parent / ".output.effc-0a1b2c3d"
    for folder in (left, other):
        (folder / RESULT).mkdir(parents=True)
    with replacing(out) as scratch:
        assert not left.exists()
        fill(scratch / RESULT, "outer")
        write(out, "inner")  # the scratch folder of a living process stays
        assert scratch.exists()
    assert version(out) == "outer"
    assert only(out.parent) == [other.name, "out"]


def test_other_threads_may_write(out: Path, write: Write, version: Version, only: Names) -> None:
    thread = threading.Thread(target=write, args=(out, "new"))
    thread.start()
    thread.join(LONGEST_SECONDS)
    assert version(out) == "new"
    assert only(out.parent) == ["out"]
