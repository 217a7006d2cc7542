"""What kind of file a model is, told by its bytes: nothing is unpickled, nothing is run."""

import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from effc.ir.trace import pickles
from effc.ir.trace.failures import DAMAGED
from effc.ir.trace.protobuf import is_onnx

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HEAD_NBYTES = 16
SAFETENSORS_HEADER_LIMIT = 100 << 20


class Kind(Enum):
    """A kind of model file."""

    EMPTY = "an empty file"
    DAMAGED_ZIP = "a truncated or damaged zip archive"
    EXPORTED = "a torch.export archive"
    OLD_EXPORTED = "a torch.export archive in the format of torch 2.7 and older"
    TORCHSCRIPT = "a TorchScript archive"
    STATE_DICT = "a state dict (weights without an architecture)"
    PICKLED = "a pickled module"
    PACKAGE = "a torch.package archive"
    OTHER_ZIP = "a zip archive of another program"
    SAFETENSORS = "a safetensors file (weights without an architecture)"
    ONNX = "an ONNX model"
    BARE_PICKLE = "a pickle not written by torch.save"
    TFLITE = "a TensorFlow Lite model"
    GGUF = "a GGUF model"
    HDF5 = "an HDF5 file"
    UNKNOWN = "not a model file effc knows"


@dataclass(frozen=True)
class FileFacts:
    """What the bytes of a file say.

    Attributes:
        kind: The kind of file.
        imports: For pickles, the names loading it would import beyond tensors.
    """

    kind: Kind
    imports: tuple[str, ...] = ()


MAGIC = (
    (0, b"GGUF", Kind.GGUF),
    (4, b"TFL3", Kind.TFLITE),
    (0, b"\x89HDF\r\n\x1a\n", Kind.HDF5),
)


def sniff(path: Path) -> FileFacts:
    """Tell what a file is.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD_NBYTES)
        if not head:
            return FileFacts(Kind.EMPTY)
        if head.startswith(b"PK"):
            return _sniff_zip(path)
        for offset, magic, kind in MAGIC:
            if head[offset : offset + len(magic)] == magic:
                return FileFacts(kind)
        if head.startswith(b"\x80"):
            return _sniff_pickle(stream, head)
        if _is_safetensors(head, path.stat().st_size):
            return FileFacts(Kind.SAFETENSORS)
        return FileFacts(Kind.ONNX if is_onnx(stream) else Kind.UNKNOWN)


def _sniff_zip(path: Path) -> FileFacts:
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(member.header_offset == 0 for member in archive.infolist()):
                return FileFacts(Kind.DAMAGED_ZIP)  # a whole archive inside one that is cut off
            return _sniff_members(archive)
    except DAMAGED:
        return FileFacts(Kind.DAMAGED_ZIP)


def _sniff_members(archive: zipfile.ZipFile) -> FileFacts:
    names = archive.namelist()
    root = names[0].split("/")[0] + "/" if names else ""
    inside = {name.removeprefix(root) for name in names}
    if "archive_format" in inside and archive.read(root + "archive_format") == b"pt2":
        return FileFacts(Kind.EXPORTED)
    if "serialized_exported_program.json" in names:
        return FileFacts(Kind.OLD_EXPORTED)
    if any(name.startswith(".data/extern_modules") for name in inside):
        return FileFacts(Kind.PACKAGE)
    if "data.pkl" not in inside:
        return FileFacts(Kind.OTHER_ZIP)
    if "constants.pkl" in inside:
        return FileFacts(Kind.TORCHSCRIPT)
    with archive.open(root + "data.pkl") as stream:
        imports = pickles.foreign_names(stream)
    return FileFacts(Kind.PICKLED if imports else Kind.STATE_DICT, tuple(imports))


def _sniff_pickle(stream: IO[bytes], head: bytes) -> FileFacts:
    stream.seek(0)
    is_legacy = head.startswith(LEGACY_MAGIC)
    try:
        imports = pickles.foreign_names(stream, pickles.LEGACY_STREAMS if is_legacy else 1)
    except DAMAGED:
        return FileFacts(Kind.PICKLED if is_legacy else Kind.BARE_PICKLE)
    if not is_legacy:
        return FileFacts(Kind.BARE_PICKLE, tuple(imports))
    return FileFacts(Kind.PICKLED if imports else Kind.STATE_DICT, tuple(imports))


def _is_safetensors(head: bytes, nbytes: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= min(nbytes - 8, SAFETENSORS_HEADER_LIMIT)
