"""One file of weights that serves several depths: what the first blocks need is read from it.

`depths.json` says for every depth which library runs it, the header of the file that library
expects, and which of the stored weights each of that file's is.
"""

import hashlib
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from effc.backends.artifact import FileName
from effc.backends.tvm_cpu.elastic import PREFIX, WEIGHTS, header_of, tensors_of
from effc.ir.errors import ArtifactError, BuildError, UsageError

DEPTHS = "depths.json"


class Depth(BaseModel):
    """What runs a depth.

    Attributes:
        library: The shared library.
        header: The list of weights it expects.
        sources: The number of the stored weight that each of them is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: FileName
    header: str
    sources: list[int]


class Depths(BaseModel):
    """The contents of `depths.json`.

    Attributes:
        depths: By number of blocks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    depths: dict[int, Depth]


def read_depths(folder: Path) -> Depths:
    """The depths an artifact offers besides its whole one.

    Raises:
        ArtifactError: If the file is damaged.
    """
    path = folder / DEPTHS
    if not path.exists():
        return Depths(depths={})
    try:
        return Depths.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: it describes no depths") from error


def depth_of(folder: Path, depth: int) -> Depth:
    """How an artifact runs its first blocks.

    Raises:
        UsageError: If it does not offer that.
    """
    known = read_depths(folder).depths
    if depth not in known:
        offered = ", ".join(map(str, sorted(known))) or "none; compile it with --depths"
        raise UsageError(f"{folder} does not run {depth} blocks; depths are: {offered}")
    return known[depth]


def add_depth(folder: Path, depth: int, library: Path, short: Path) -> None:
    """Make an artifact's folder serve another depth.

    Args:
        folder: A build of the whole.
        depth: How many blocks the other build has.
        library: Its library.
        short: Its weights, which are not kept.

    Raises:
        BuildError: If one of them is none of the whole's.
    """
    known: dict[tuple[str, str], int] = {}
    for at, (_, facts, values) in enumerate(tensors_of(folder / WEIGHTS)):
        known.setdefault((facts, hashlib.blake2b(values.tobytes()).hexdigest()), at)
    sources = []
    for name, facts, values in tensors_of(short):
        found = known.get((facts, hashlib.blake2b(values.tobytes()).hexdigest()))
        if found is None:
            raise BuildError(f"{name} with {depth} blocks is none of the weights of all blocks")
        sources.append(found)
    made = Depth(library=library.name, header=header_of(short).decode(), sources=sources)
    (folder / library.name).write_bytes(library.read_bytes())
    everything = Depths(depths={**read_depths(folder).depths, depth: made})
    (folder / DEPTHS).write_text(everything.model_dump_json(indent=1) + "\n")


def depth_file(folder: Path, depth: int) -> Path:
    """A temporary file with the weights of a depth; the caller removes it.

    Raises:
        ArtifactError: If a weight it needs is not stored.
    """
    found, stored = depth_of(folder, depth), tensors_of(folder / WEIGHTS)
    header = found.header.encode()
    with tempfile.NamedTemporaryFile(suffix=".safetensors", delete=False) as file:
        path = Path(file.name)
        try:
            file.write(len(header).to_bytes(PREFIX, "little") + header)
            for source in found.sources:
                file.write(stored[source][2].data)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, IndexError):
                raise ArtifactError(
                    f"{folder / DEPTHS} is damaged: there is no weight {source}"
                ) from error
            raise
    return path
