"""The front door for TorchScript archives, by way of torch's own converter (best effort)."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx

from effc.ir.errors import ModelError, UsageError
from effc.ir.program import Program
from effc.ir.trace.failures import DAMAGED, explain
from effc.ir.trace.inputs import WantedInputs, example_tensors
from effc.ir.trace.module import evaluation_mode, trace_module
from effc.ir.trace.names import rename
from effc.ir.trace.quiet import quiet
from effc.ir.trace.request import Request

# The language is TorchScript, not Python; these are its ways to files.
FILE_ACCESS = re.compile(rb"\b(torch|ops\.aten)\.(save|from_file)\s*\(|\bops\.(prim|debugprims)\.")
REMEDY = "save the original module with torch.export.save, or give package.module:factory"


def open_torchscript(path: Path, request: Request) -> Program:
    """Convert a TorchScript archive.

    Raises:
        ModelError: If it is damaged, touches files, or cannot be converted, with what to do.
        UsageError: If the inputs are not known or do not fit.
    """
    _check_source(path)
    try:
        with quiet():
            script = torch.jit.load(  # type: ignore[no-untyped-call]
                str(path), map_location="cpu"
            )
    except Exception as error:  # torch raises whatever its reader finds
        raise explain(error, f"cannot load the TorchScript archive {path}") from error
    return trace_script(script, replace(request, name=request.name or path.stem))


def trace_script(script: torch.jit.ScriptModule, request: Request) -> Program:
    """Convert a TorchScript module to a graph and trace that.

    Raises:
        ModelError: If it cannot be converted, with what to do.
        UsageError: If the inputs are not known or do not fit.
    """
    forward: Any = script.forward
    names = [argument.name for argument in forward.schema.arguments[1:]]
    given = _given(names, request)
    name = request.name or script.original_name
    try:
        with quiet(), evaluation_mode(script):
            module = _converted(script, tuple(given[name] for name in names))
    except Exception as error:  # the converter raises whatever it does not know
        raise explain(error, f"cannot convert the TorchScript model {name} ({REMEDY})") from error
    return _traced(module, names, given, replace(request, name=name))


def _check_source(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            sources = [name for name in archive.namelist() if "/code/" in name]
            found = [] if damaged else [FILE_ACCESS.search(archive.read(n)) for n in sources]
    except DAMAGED as error:
        raise ModelError(f"{path} is a damaged TorchScript archive: {error}") from error
    if damaged:
        raise ModelError(f"{path} is a damaged TorchScript archive: {damaged}")
    if calls := sorted({match[0].decode() for match in found if match}):
        raise ModelError(f"{path} is refused, since it touches files when run: {calls[0]}")


def _given(names: list[str], request: Request) -> dict[str, torch.Tensor]:
    """An example per parameter of the script's `forward`."""
    takes = f"it takes {', '.join(names)}"
    if request.examples is None and not request.wanted.specs:
        raise UsageError(
            "a TorchScript model does not carry the shapes of its inputs; give each with "
            f'--input "name:dtype[dims]"; {takes}'
        )
    given = example_tensors(request.wanted) if request.examples is None else request.examples
    if isinstance(given, torch.Tensor):
        given = (given,)
    if not isinstance(given, dict):
        given = dict(zip(names, given, strict=False))
    if given.keys() != set(names):
        raise UsageError(f"--input names {', '.join(given)}, which the model lacks; {takes}")
    return given


def _converted(script: torch.jit.ScriptModule, examples: tuple[Any, ...]) -> fx.GraphModule:
    from torch._export.converter import TS2EPConverter

    exported = TS2EPConverter(script, examples, {}).convert()
    module = exported.module(check_guards=False)
    for node in module.graph.nodes:
        node.meta.pop("custom", None)
    return fx.GraphModule(module, module.graph)  # the copy has a mode, which torch.export sets


def _traced(
    module: fx.GraphModule, names: list[str], given: dict[str, torch.Tensor], request: Request
) -> Program:
    """Trace the converted module, whose parameters torch has renamed, under the user's names."""
    parameters = [node.target for node in module.graph.find_nodes(op="placeholder")]
    renamed = dict(zip(names, parameters, strict=True))
    specs = tuple(replace(spec, name=renamed[spec.name]) for spec in request.wanted.specs)
    wanted = WantedInputs(specs, request.wanted.symbols)
    examples = {renamed[name]: value for name, value in given.items()}
    program = trace_module(module, wanted, examples, request.name)
    rename(program, names, [spec.name for spec in program.signature.outputs])
    return program
