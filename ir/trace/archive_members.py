"""The members of a torch.export archive: which there are, and the tensors among them."""

import json
import re
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from effc.ir.errors import ModelError
from effc.ir.trace.archive_rules import WEIGHT_PATH, shown

Json = Any
MODEL = "models/model.json"
VERSION = "archive_version"
SAMPLE = "data/sample_inputs/model.pt"
EXTRA = "extra/"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
CONFIGS = {
    WEIGHTS: WEIGHTS + "model_weights_config.json",
    CONSTANTS: CONSTANTS + "model_constants_config.json",
}
PAYLOADS = {WEIGHTS: re.compile(r"weight_\d+"), CONSTANTS: re.compile(r"tensor_\d+")}
NATIVE_CODE = "data/aotinductor/"
LEGACY = (WEIGHTS + "model.pt", CONSTANTS + "model.pt")
ENCRYPTED = 1


class Members:
    """The members of an archive below its root folder.

    Args:
        path: Where the archive is, for messages.
        source: The archive.

    Raises:
        ModelError: If a member occurs twice, is compressed or encrypted.
    """

    def __init__(self, path: Path, source: zipfile.ZipFile) -> None:
        self._source = source
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in source.infolist():
            name = info.filename.partition("/")[2]
            if name in self._infos:
                raise ModelError(f"{path} holds {name} twice, so it is unclear which one counts")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
                raise ModelError(f"{path} is compressed or encrypted; use torch.export.save again")
            self._infos[name] = info

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def names(self, prefix: str) -> list[str]:
        """Every member below a folder."""
        return sorted(name for name in self._infos if name.startswith(prefix))

    def nbytes(self, name: str) -> int:
        """Size of a member."""
        return self._infos[name].file_size

    def read(self, name: str) -> bytes:
        """The content of a member, its checksum verified."""
        return self._source.read(self._infos[name])

    def json(self, name: str) -> Json:
        """The JSON document a member holds."""
        return json.loads(self.read(name))


def code_members(members: Members) -> Iterator[str]:
    """Reasons to refuse an archive for the members it has."""
    if members.names(NATIVE_CODE):
        yield "native code (data/aotinductor)"
    for name in LEGACY:
        if name in members:
            yield f"pickled weights ({name})"


def payload_problems(members: Members, folder: str, config: Json) -> Iterator[str]:
    """Reasons to refuse the table of weights or constants of an archive."""
    for weight, entry in config["config"].items():
        if not WEIGHT_PATH.fullmatch(weight):
            yield f"a weight name that is not a path: {shown(weight)}"
        elif entry["use_pickle"] is not False or not PAYLOADS[folder].fullmatch(entry["path_name"]):
            yield f"a pickled object instead of the tensor {weight}"
        elif _is_without_data(members, folder, entry):
            yield f"no data for the tensor {weight} (it was exported from a model on paper)"


def payload_names(config: Json) -> list[str]:
    """The members that hold the tensors of a table, each once."""
    return sorted({entry["path_name"] for entry in config["config"].values()})


def _is_without_data(members: Members, folder: str, entry: Json) -> bool:
    elements = prod(size["as_int"] for size in entry["tensor_meta"]["sizes"])
    return elements > 0 and members.nbytes(folder + entry["path_name"]) == 0
