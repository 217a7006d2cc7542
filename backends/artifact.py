"""An artifact on disk: a folder that is complete in itself, described by `manifest.json`."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from effc.ir import symbols
from effc.ir.errors import ArtifactError, UsageError
from effc.ir.program import DTYPES, Program, Signature, TensorSpec, dtype_name
from effc.ir.symbols import Symbol
from effc.ir.target import Target

FORMAT = 1
MANIFEST, REPORT, RECIPE, SAMPLE, README = (
    "manifest.json", "report.json", "recipe.yaml", "sample.npz", "README.md",
)  # fmt: skip
CHUNK = 1 << 20


class TensorEntry(BaseModel):
    """An input or output."""

    name: str
    dtype: str
    shape: list[str]


class SymbolEntry(BaseModel):
    """A symbolic dimension."""

    name: str
    minimum: int
    maximum: int


class FileEntry(BaseModel):
    """A file of the artifact and what it must contain."""

    nbytes: int
    digest: str


class Manifest(BaseModel):
    """The contents of `manifest.json`.

    Attributes:
        format: Version of this description.
        effc: Version of effc that wrote it.
        name: The model's name.
        target: What it was built for.
        backend: Which backend opens it.
        features: Instruction set extensions the code needs.
        threads: How many threads it was built for.
        inputs: In call order.
        outputs: In call order.
        symbols: Symbolic dimensions, in the order the code takes them.
        files: Every other file it needs to run.
    """

    format: int
    effc: str
    name: str
    target: str
    backend: str
    features: list[str]
    threads: int
    inputs: list[TensorEntry]
    outputs: list[TensorEntry]
    symbols: list[SymbolEntry]
    files: dict[str, FileEntry]

    @property
    def signature(self) -> Signature:
        """Inputs and outputs as a program has them."""
        return Signature(_specs(self.inputs), _specs(self.outputs))

    @property
    def ranges(self) -> dict[str, Symbol]:
        """Symbolic dimensions by name."""
        return {s.name: Symbol(s.name, s.minimum, s.maximum) for s in self.symbols}


def _specs(entries: list[TensorEntry]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(e.name, DTYPES[e.dtype], tuple(symbols.parse(size) for size in e.shape))
        for e in entries
    )


def _entries(specs: tuple[TensorSpec, ...]) -> list[TensorEntry]:
    return [
        TensorEntry(
            name=s.name, dtype=dtype_name(s.dtype), shape=[symbols.text(d) for d in s.shape]
        )
        for s in specs
    ]


def manifest_of(program: Program, target: Target, folder: Path, version: str) -> Manifest:
    """Describe a build: what the program takes and gives, and every file of the folder."""
    files = {
        path.name: FileEntry(nbytes=path.stat().st_size, digest=digest(path))
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (MANIFEST, REPORT, RECIPE, README, SAMPLE)
    }
    return Manifest(
        format=FORMAT,
        effc=version,
        name=program.name,
        target=target.name,
        backend=target.backend,
        features=list(target.features),
        threads=target.cores,
        inputs=_entries(program.signature.inputs),
        outputs=_entries(program.signature.outputs),
        symbols=[SymbolEntry(**vars(symbol)) for symbol in program.symbols.values()],
        files=files,
    )


def digest(path: Path) -> str:
    """Hex digest of a file's content."""
    content = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            content.update(block)
    return content.hexdigest()


def read_manifest(folder: Path, check: bool = True) -> Manifest:
    """Read and check an artifact.

    Args:
        folder: The artifact.
        check: Whether to compare every file with its digest.

    Raises:
        ArtifactError: If the folder is no artifact, is incomplete, or a file was changed.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except OSError as error:
        raise ArtifactError(f"{folder} is no artifact: cannot read {path.name}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if manifest.format != FORMAT:
        raise ArtifactError(f"{path} has format {manifest.format}, this effc reads {FORMAT}")
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry, check)
    return manifest


def _check_file(path: Path, entry: FileEntry, check: bool) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path.parent} is incomplete: {path.name} is missing")
    nbytes = path.stat().st_size
    if nbytes != entry.nbytes:
        raise ArtifactError(f"{path} is damaged: {nbytes} bytes, expected {entry.nbytes}")
    if check and digest(path) != entry.digest:
        raise ArtifactError(f"{path} is damaged: its content does not match the manifest")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of the artifact's JSON files.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {folder / name}: {error}") from error
    return content


def folder_nbytes(folder: Path) -> int:
    """Bytes of what must be shipped: the files of the manifest and the manifest itself."""
    manifest = read_manifest(folder, check=False)
    return (folder / MANIFEST).stat().st_size + sum(e.nbytes for e in manifest.files.values())


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place if the block succeeds.

    Whatever stops the block, `folder` stays as it was.

    Raises:
        UsageError: If the place cannot be written to, or holds something that is no artifact.
    """
    folder = folder.absolute()
    if folder.exists() and not _may_replace(folder):
        raise UsageError(f"{folder} exists and is no artifact; choose another output folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield work
        _swap(work, folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


def _swap(work: Path, folder: Path) -> None:
    """Put `work` where `folder` is; at no moment is there half an artifact."""
    work.chmod(0o755)
    old = Path(f"{work}.old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(work, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
