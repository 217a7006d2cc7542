"""One file of 8-bit weights that serves several widths: the narrower ones are derived on loading.

`elastic.json` says for every width which library reads it, the header of the file that library
expects, and what becomes of each stored weight: the same, codes rounded once more (see the pass
`narrow-weights`), or scales that are as much larger. Packed codes are narrowed in place: the
layout of a block differs between widths only in how the codes of its steps share bytes
(`codegen/pack.py`).
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from effc.backends.artifact import FileName
from effc.codegen.pack import STEP, STEPS, fields_of
from effc.ir.errors import ArtifactError, BuildError, UsageError

ELASTIC, WEIGHTS = "elastic.json", "weights.safetensors"
PREFIX, WIDE = 8, 8
BFLOAT16_EXPONENT = 7  # bits below the exponent of a bfloat16
BFLOAT16_MAGNITUDE = 0x7FFF
Kind = Literal["same", "codes", "scales"]
KINDS: dict[str, Kind] = {".codes": "codes", ".scales": "scales"}


class Width(BaseModel):
    """What reads a width of the weights.

    Attributes:
        library: The shared library.
        header: The list of weights it expects.
        kinds: What becomes of each stored weight, in order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: FileName
    header: str
    kinds: list[Kind]


class Elastic(BaseModel):
    """The contents of `elastic.json`.

    Attributes:
        widths: By bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: dict[int, Width]


def read_elastic(folder: Path) -> Elastic | None:
    """The widths an artifact offers; None if it is not elastic.

    Raises:
        ArtifactError: If the file is damaged.
    """
    path = folder / ELASTIC
    if not path.exists():
        return None
    try:
        return Elastic.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: it describes no widths") from error


def width_of(folder: Path, bits: int) -> Width:
    """How an artifact runs with weights of a width.

    Raises:
        UsageError: If it does not offer it.
    """
    elastic = read_elastic(folder)
    known = () if elastic is None else tuple(sorted(elastic.widths, reverse=True))
    if elastic is None or bits not in elastic.widths:
        offered = ", ".join(map(str, known)) if known else "none; compile it with --elastic"
        raise UsageError(f"{folder} has no weights of {bits} bits; widths are: {offered}")
    return elastic.widths[bits]


def add_width(folder: Path, bits: int, library: Path, narrow: Path) -> None:
    """Make an artifact's folder serve another width.

    Args:
        folder: A build with 8-bit weights.
        bits: The width.
        library: The library of a build with weights of that width.
        narrow: Its weights, which are not kept.

    Raises:
        BuildError: If they are not what the 8-bit weights give.
    """
    known, found = tensors_of(folder / WEIGHTS), tensors_of(narrow)
    if len(known) != len(found):
        raise BuildError(f"weights of {bits} bits are other ones than those of {WIDE} bits")
    kinds: list[Kind] = []
    for (name, facts, wide), (_, _, wanted) in zip(known, found, strict=True):
        kind: Kind = "same"
        if not np.array_equal(wide, wanted):
            kind = next((k for end, k in KINDS.items() if name.endswith(end)), "same")
        if not np.array_equal(_derived(wide, facts, kind, bits), wanted):
            raise BuildError(f"{name} in {bits} bits does not follow from its {WIDE}-bit codes")
        kinds.append(kind)
    elastic = read_elastic(folder) or Elastic(widths={})
    width = Width(library=library.name, header=header_of(narrow).decode(), kinds=kinds)
    (folder / library.name).write_bytes(library.read_bytes())
    made = Elastic(widths={**elastic.widths, bits: width})
    (folder / ELASTIC).write_text(made.model_dump_json(indent=1) + "\n")


def write_derived(folder: Path, bits: int, path: Path) -> None:
    """Write the weights of a width as the library that reads them expects them."""
    width = width_of(folder, bits)
    header = width.header.encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(PREFIX, "little") + header)
        for (_, facts, wide), kind in zip(tensors_of(folder / WEIGHTS), width.kinds, strict=True):
            file.write(_derived(wide, facts, kind, bits).data)


def derived_file(folder: Path, bits: int) -> Path:
    """A temporary file with the weights of a width; the caller removes it."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as file:
        path = Path(file.name)
    try:
        write_derived(folder, bits, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _derived(wide: np.ndarray, facts: str, kind: Kind, bits: int) -> np.ndarray:
    """A stored weight in another width: uint8 as it lies in the file."""
    if kind == "same":
        return wide
    shape = [int(size) for size in facts[facts.index("[") + 1 : -1].split(",")]
    count = math.prod(shape)
    if kind == "scales":
        values = wide[: 2 * count].view(np.uint16)
        raised = values + np.uint16((WIDE - bits) << BFLOAT16_EXPONENT)
        return _padded(np.where(values & BFLOAT16_MAGNITUDE, raised, values).view(np.uint8))
    return _padded(_narrowed_blocks(wide[:count].reshape(-1, STEPS, shape[-2], STEP), bits))


def _narrowed_blocks(blocks: np.ndarray, bits: int) -> np.ndarray:
    """Vectors of blocks of 8-bit codes `[vectors, steps, lanes, 4]` in fewer bits, flat."""
    step, half = 1 << (WIDE - bits), 1 << (bits - 1)
    centred = blocks.astype(np.int16) - (1 << (WIDE - 1))
    rounded = np.floor_divide(centred + step // 2, step)
    codes = (np.clip(rounded, -half, half - 1) + half).astype(np.uint8)
    parts = []
    for place, width in fields_of(bits):
        field = (codes >> place) & ((1 << width) - 1)
        together = field.reshape(len(codes), width, 8 // width, *codes.shape[2:])
        shifts = (np.arange(8 // width, dtype=np.uint8) * width)[:, None, None]
        parts.append(np.bitwise_or.reduce(together << shifts, axis=2))
    return np.concatenate(parts, 1).reshape(-1)


def _padded(values: np.ndarray, align: int = 64) -> np.ndarray:
    return np.concatenate((values.reshape(-1), np.zeros(-values.size % align, np.uint8)))


def header_of(path: Path) -> bytes:
    """The list of weights of a file."""
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(PREFIX), "little"))


def tensors_of(path: Path) -> list[tuple[str, str, np.ndarray]]:
    """Name, type with shape, and bytes of every weight of a file, in order."""
    header = header_of(path)
    described: dict[str, Any] = json.loads(header)
    kinds = described.pop("__metadata__")
    data = np.memmap(path, np.uint8, "r", offset=PREFIX + len(header))
    found = []
    for label, entry in described.items():
        begin, end = entry["data_offsets"]
        found.append((label.partition(".")[2], kinds[label], data[begin:end]))
    return found
