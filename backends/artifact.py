"""An artifact on disk: a folder that is complete in itself, described by `manifest.json`."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sympy import Expr

from effc.ir import symbols
from effc.ir.program import DTYPES, Program, Signature, TensorSpec, dtype_name
from effc.ir.symbols import Symbol
from effc.ir.target import Target

FORMAT = 1
MANIFEST, REPORT, RECIPE, SAMPLE, README, PROGRAM = (
    "manifest.json", "report.json", "recipe.yaml", "sample.npz", "README.md", "program.pt2",
)  # fmt: skip
RECORDS = (REPORT, SAMPLE, PROGRAM)
CHUNK = 1 << 20


def _is_plain(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file in the folder")
    return name


def _is_size(text: str) -> str:
    size = symbols.parse(text)
    if isinstance(size, int) and size < 0:
        raise ValueError(f"{text} is no size")
    return text


def _is_dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"{name!r} is no dtype")
    return name


FileName = Annotated[str, AfterValidator(_is_plain)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorEntry(_Entry):
    """An input or output."""

    name: str
    dtype: Annotated[str, AfterValidator(_is_dtype)]
    shape: list[Annotated[str, AfterValidator(_is_size)]]


class SymbolEntry(_Entry):
    """A symbolic dimension."""

    name: str
    minimum: int = Field(ge=0)
    maximum: int

    @model_validator(mode="after")
    def _is_range(self) -> "SymbolEntry":
        if self.maximum < self.minimum:
            raise ValueError(f"{self.name} ranges from {self.minimum} to {self.maximum}")
        return self


class FileEntry(_Entry):
    """A file of the artifact and what it must contain."""

    nbytes: int = Field(ge=0)
    digest: str

    @classmethod
    def of(cls, path: Path) -> "FileEntry":
        """Describe a file."""
        return cls(nbytes=path.stat().st_size, digest=digest(path))


class Manifest(_Entry):
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
        records: Files about it that it does not need to run.
        digest: Of everything else in here.
    """

    format: int
    effc: str
    name: str
    target: str
    backend: str
    features: list[str]
    threads: int = Field(ge=1)
    inputs: list[TensorEntry]
    outputs: list[TensorEntry]
    symbols: list[SymbolEntry]
    files: dict[FileName, FileEntry]
    records: dict[FileName, FileEntry] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _has_symbols(self) -> "Manifest":
        known = {symbol.name for symbol in self.symbols}
        for entry in (*self.inputs, *self.outputs):
            for size in map(symbols.parse, entry.shape):
                if unknown := set() if isinstance(size, int) else _names(size) - known:
                    raise ValueError(f"{entry.name} has the unknown size {min(unknown)}")
        return self

    @property
    def signature(self) -> Signature:
        """Inputs and outputs as a program has them."""
        return Signature(_specs(self.inputs), _specs(self.outputs))

    @property
    def ranges(self) -> dict[str, Symbol]:
        """Symbolic dimensions by name."""
        return {s.name: Symbol(s.name, s.minimum, s.maximum) for s in self.symbols}

    def own_digest(self) -> str:
        """What `digest` has to be."""
        content = self.model_dump_json(exclude={"digest"}).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def sealed(self) -> "Manifest":
        """The same with its digest."""
        return self.model_copy(update={"digest": self.own_digest()})

    def with_records(self, folder: Path) -> "Manifest":
        """The same with the records a folder holds."""
        found = {name: FileEntry.of(folder / name) for name in RECORDS if (folder / name).exists()}
        return self.model_copy(update={"records": found}).sealed()


def _names(size: Expr) -> set[str]:
    return {symbol.name for symbol in size.free_symbols}


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
    described = {MANIFEST, RECIPE, README, *RECORDS}
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
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
        files={name: FileEntry.of(folder / name) for name in names if name not in described},
    ).with_records(folder)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json`."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")


def digest(path: Path) -> str:
    """Hex digest of a file's content."""
    content = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            content.update(block)
    return content.hexdigest()
