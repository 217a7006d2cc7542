"""The front door for `.pt`, `.pth` and other single files, told apart by their bytes."""

from pathlib import Path

import torch

from effc.ir.errors import EffcError, ModelError
from effc.ir.program import Program
from effc.ir.trace.factory import current_folder_importable, described
from effc.ir.trace.module import trace_module
from effc.ir.trace.quiet import quiet
from effc.ir.trace.request import Request
from effc.ir.trace.sniff import FileFacts, Kind, sniff

SHOWN_NAMES = 4
ARCHITECTURE = (
    "give package.module:factory, a function that builds the model and loads these weights, "
    "or a Hugging Face folder with config.json"
)
EXPORT = "export it with torch.export.save, or give package.module:factory"
ONNX = "convert it to ONNX or to a torch.export archive"
REMEDIES = {
    Kind.EMPTY: "write or copy it again",
    Kind.DAMAGED_ZIP: "copy or download it again",
    Kind.OLD_EXPORTED: "save it again with torch.export.save of torch 2.8 or newer",
    Kind.STATE_DICT: ARCHITECTURE,
    Kind.SAFETENSORS: ARCHITECTURE,
    Kind.PACKAGE: f"it holds Python source and pickles; {EXPORT}",
    Kind.BARE_PICKLE: f"it runs code when loaded; {EXPORT}",
    Kind.OTHER_ZIP: EXPORT,
    Kind.TFLITE: ONNX,
    Kind.GGUF: "give the original model it was converted from",
    Kind.HDF5: ONNX,
    Kind.UNKNOWN: (
        "give a .pt2 or .onnx file, a TorchScript file, a Hugging Face folder or "
        "package.module:factory"
    ),
}


def open_file(path: Path, request: Request) -> Program:
    """Open a model file of any kind.

    Raises:
        ModelError: Saying what the file is and what to do.
        UsageError: If the inputs do not fit.
        UnsupportedError: If it calls operators that are not registered.
    """
    try:
        facts = sniff(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot read {path}: {reason}; {REMEDIES[Kind.UNKNOWN]}") from error
    match facts.kind:
        case Kind.EXPORTED:
            from effc.ir.trace.saved import open_saved

            return open_saved(path, request)
        case Kind.ONNX:
            from effc.ir.trace.onnx import open_onnx

            return open_onnx(path, request)
        case Kind.TORCHSCRIPT:
            from effc.ir.trace.torchscript import open_torchscript

            return open_torchscript(path, request)
        case Kind.PICKLED:
            module = _unpickled(path, facts, request.trust_pickle)
            name = request.name or path.stem
            return trace_module(module, request.wanted, request.examples, name)
    raise ModelError(f"{path} is {facts.kind.value}; {REMEDIES[facts.kind]}")


def _unpickled(path: Path, facts: FileFacts, trust_pickle: bool) -> torch.nn.Module:
    """Load a pickled module, which runs code from the file; only where the user trusts it."""
    if not trust_pickle:
        shown = ", ".join(facts.imports[:SHOWN_NAMES]) or "unknown names"
        more = ", ..." if len(facts.imports) > SHOWN_NAMES else ""
        raise ModelError(
            f"{path} is a pickled module that imports {shown}{more} and can run any code when "
            "loaded; pass --trust-pickle if you trust its source, or save the model with "
            "torch.export.save"
        )
    with quiet(), current_folder_importable():
        try:
            found = torch.load(path, map_location="cpu", weights_only=False)
        except EffcError:
            raise
        except Exception as error:  # unpickling runs code that raises whatever it raises
            raise ModelError(f"cannot unpickle {path}: {described(error)}") from error
    if not isinstance(found, torch.nn.Module):
        raise ModelError(f"{path} holds a {type(found).__name__}, not a module; {ARCHITECTURE}")
    return found
