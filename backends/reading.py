"""Reading an artifact's folder without believing anything that was not checked."""

import json
from pathlib import Path

from pydantic import ValidationError

from effc.backends.artifact import (
    FORMAT,
    MANIFEST,
    README,
    RECIPE,
    RECORDS,
    FileEntry,
    Manifest,
    digest,
)
from effc.ir.errors import ArtifactError


def read_manifest(folder: Path, check: bool = True) -> Manifest:
    """Read and check an artifact.

    Args:
        folder: The artifact.
        check: Whether to compare every file with its digest, not only with its size.

    Raises:
        ArtifactError: If the folder is no artifact, is incomplete, or a file was changed.
    """
    path = folder / MANIFEST
    manifest = _parsed(path)
    if manifest.own_digest() != manifest.digest:
        raise ArtifactError(f"{path} is damaged: its content does not match its digest")
    for name, entry in manifest.files.items():
        check_file(folder / name, entry, check)
    return manifest


def _parsed(path: Path) -> Manifest:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{path.parent} is no artifact: cannot read {path.name}: {reason}"
        ) from error
    try:
        document = json.loads(content)
        found = document["format"]
        if found == FORMAT:
            return Manifest.model_validate(document)
    except ValidationError as error:
        raise ArtifactError(f"{path} is damaged: {_reason(error)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    raise ArtifactError(f"{path} has format {found}, this effc reads {FORMAT}")


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    where = "".join(f"{place}: " for place in [".".join(map(str, first["loc"]))] if place)
    return f"{where}{first['msg'].removeprefix('Value error, ')}"


def check_file(path: Path, entry: FileEntry, check: bool = True) -> None:
    """Compare a file with its description.

    Raises:
        ArtifactError: If it is missing or was changed.
    """
    try:
        nbytes = path.stat().st_size
        if nbytes != entry.nbytes:
            raise ArtifactError(f"{path} is damaged: {nbytes} bytes, expected {entry.nbytes}")
        if check and digest(path) != entry.digest:
            raise ArtifactError(f"{path} is damaged: its content does not match the manifest")
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.parent} is incomplete: {path.name} is missing") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error


def read_record(folder: Path, manifest: Manifest, name: str) -> bytes:
    """Read one of the files about an artifact, such as its report.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    if name not in manifest.records:
        raise ArtifactError(f"{folder} is incomplete: it has no {name}")
    check_file(folder / name, manifest.records[name])
    return (folder / name).read_bytes()


def folder_nbytes(folder: Path) -> int:
    """Bytes of what must be shipped: the files of the manifest and the manifest itself."""
    manifest = read_manifest(folder, check=False)
    return (folder / MANIFEST).stat().st_size + sum(e.nbytes for e in manifest.files.values())


def is_artifact(folder: Path) -> bool:
    """Whether a folder was written by effc, damaged or not."""
    return bool(_names(folder))


def foreign_file(folder: Path) -> str | None:
    """The first name in an artifact's folder that effc did not write, if there is one."""
    known = _names(folder)
    found = sorted(path.name for path in folder.iterdir())
    return next((name for name in found if name not in known), None) if known else None


def _names(folder: Path) -> set[str]:
    """Names of the files of an artifact as its manifest has them; empty if it is none."""
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        is_known = document.keys() >= {"effc", "format", "files"}
        return {MANIFEST, README, RECIPE, *RECORDS, *document["files"]} if is_known else set()
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return set()
