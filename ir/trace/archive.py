"""Opening a torch.export archive (`.pt2`) without letting it run code.

`torch.export.load` unpickles, evaluates and imports what an archive tells it to. Here the archive
is read with `zipfile` and `json` only, checked rule by rule, and copied into a new archive that
holds checked data and nothing else; torch sees the copy. So what is checked is what is loaded.
"""

import io
import json
import pickle
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch.export import ExportedProgram

from effc.ir.errors import ModelError, Unsupported, UnsupportedError
from effc.ir.trace import archive_members as layout
from effc.ir.trace.archive_members import Members
from effc.ir.trace.archive_rules import is_registered, nodes, objects, problems
from effc.ir.trace.archive_trees import check_keywords, plain_tree
from effc.ir.trace.failures import DAMAGED, explain
from effc.ir.trace.quiet import quiet

Json = Any
KEPT_METADATA = ("nn_module_stack", "custom")
IN_MEMORY_NBYTES = 256 << 20
SHOWN_PROBLEMS = 3
CPU = {"type": "cpu", "index": None}


@dataclass(frozen=True)
class Archive:
    """A loaded archive.

    Attributes:
        exported: The program in it.
        extra: Texts stored beside it, by file name.
    """

    exported: ExportedProgram
    extra: dict[str, str]


def open_archive(path: Path) -> Archive:
    """Check and load a torch.export archive.

    Raises:
        ModelError: If it could run code, is damaged, or torch cannot read it.
        UnsupportedError: If it calls operators that no imported library registers; all listed.
    """
    try:
        with zipfile.ZipFile(path) as source:
            members = Members(path, source)
            with tempfile.SpooledTemporaryFile(IN_MEMORY_NBYTES) as copy:
                version = _rewrite(path, members, copy)
                copy.seek(0)
                exported = _load(f"{path} (written by torch {version})", copy)
            names = members.names(layout.EXTRA)
            extra = {name.removeprefix(layout.EXTRA): members.read(name).decode() for name in names}
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path} is a damaged torch.export archive: {reason}") from error
    return Archive(exported, extra)


def _rewrite(path: Path, members: Members, copy: IO[bytes]) -> str:
    """Write a new archive with the checked data of another; return the version of its torch."""
    from torch.export.pt2_archive._package import PT2ArchiveWriter

    _check_version(path, members)
    model = members.json(layout.MODEL)
    configs = {folder: members.json(name) for folder, name in layout.CONFIGS.items()}
    found = [*layout.code_members(members), *problems(model)]
    for folder, config in configs.items():
        found += layout.payload_problems(members, folder, config)
    _refuse(path, found)
    _check_operators(path, model)
    with PT2ArchiveWriter(copy) as writer:
        for folder, config in configs.items():
            _on_cpu(config)
            writer.write_string(layout.CONFIGS[folder], json.dumps(config))
            for name in layout.payload_names(config):
                writer.write_bytes(folder + name, members.read(folder + name))
        writer.write_string(layout.MODEL, json.dumps(_cleaned(path, model)))
        writer.write_bytes(layout.SAMPLE, _sample_inputs(path, members))
    return str(model.get("torch_version", "unknown"))


def _check_version(path: Path, members: Members) -> None:
    if layout.MODEL not in members:
        held = ", ".join(members.names("models/")) or "none"
        raise ModelError(f"{path} holds no program called model (found: {held})")
    if (version := members.read(layout.VERSION)) != b"0":
        raise ModelError(f"{path} has archive version {version.decode()}; this torch reads 0")


def _refuse(path: Path, found: list[str]) -> None:
    if not found:
        return
    shown = "; ".join(found[:SHOWN_PROBLEMS])
    more = f"; and {len(found) - SHOWN_PROBLEMS} more" if len(found) > SHOWN_PROBLEMS else ""
    raise ModelError(f"{path} is refused, since loading it could run code: {shown}{more}")


def _check_operators(path: Path, model: Json) -> None:
    counts: dict[str, Unsupported] = {}
    for node in nodes(model):
        if is_registered(node["target"]):
            continue
        op = node["target"].removeprefix("torch.ops.")
        known = counts.get(op)
        source = known.source if known else _source(node)
        reason = "no imported library registers it; import the one that does before loading"
        counts[op] = Unsupported(op, source, reason, known.count + 1 if known else 1)
    if counts:
        raise UnsupportedError(str(path), list(counts.values()))


def _source(node: Json) -> str:
    """The module path of a serialised node, the middle of `key,path,type` of its last module."""
    parts = node["metadata"].get("nn_module_stack", "").split(";")[-1].split(",")
    return parts[1] if len(parts) > 1 else ""


def _cleaned(path: Path, model: Json) -> Json:
    """The description without what effc does not need, on the CPU, its containers plain."""
    graph_module = model["graph_module"]
    fields = graph_module.get("treespec_namedtuple_fields") or {}
    root = graph_module["module_call_graph"][0]
    signature = root["signature"]
    for key in ("in_spec", "out_spec"):
        signature[key] = plain_tree(signature[key], fields)
    check_keywords(signature["in_spec"])
    graph_module |= {"module_call_graph": [root], "treespec_namedtuple_fields": {}, "metadata": {}}
    model["guards_code"] = []
    for node in nodes(model):
        node["metadata"] = _metadata(node["metadata"])
    _on_cpu(model)
    return model


def _metadata(metadata: Json) -> Json:
    kept = {key: value for key, value in metadata.items() if key in KEPT_METADATA}
    if "custom" in kept and not isinstance(json.loads(kept["custom"]), dict):
        del kept["custom"]
    return kept


def _on_cpu(document: Json) -> None:
    for owner in objects(document):
        for key in ("device", "as_device"):
            if owner.get(key):
                owner[key] = CPU


def _sample_inputs(path: Path, members: Members) -> bytes:
    """The example inputs, read as plain tensors and written anew."""
    content = members.read(layout.SAMPLE)
    if not content:
        return content
    try:
        sample = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        what = "pickled objects among its sample inputs"
        raise ModelError(f"{path} is refused, since loading it could run code: {what}") from error
    if not isinstance(sample, tuple):
        return b""
    written = io.BytesIO()
    torch.save(sample, written)
    return written.getvalue()


def _load(what: str, copy: IO[bytes]) -> ExportedProgram:
    from torch.export.pt2_archive._package import load_pt2

    try:
        with quiet():
            return load_pt2(copy).exported_programs["model"]
    except Exception as error:  # torch raises whatever it finds wrong with the description
        raise explain(error, f"cannot load {what}") from error
