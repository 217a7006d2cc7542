"""The one entrance: whatever a user calls a model becomes a Program."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from effc.ir.errors import ModelError, UsageError
from effc.ir.program import Program
from effc.ir.trace import factory
from effc.ir.trace.inputs import parse_inputs
from effc.ir.trace.request import Request

InMemory = torch.nn.Module | ExportedProgram | Program
Model = str | Path | InMemory


def open_model(
    model: Model,
    *,
    inputs: Sequence[str] = (),
    example_inputs: Any = None,
    trust_pickle: bool = False,
    name: str | None = None,
    notes: list[str] | None = None,
) -> Program:
    """Turn a model of any kind into a program.

    Args:
        model: A path (`.pt2`, `.pt`, `.pth`, `.onnx`, a Hugging Face folder), a text
            `package.module:factory`, a module, an exported program, or a program, which is
            returned as it is.
        inputs: `name:dtype[dims]` texts for models that do not carry their inputs, such as
            `"input_ids:i64[batch=1..8,sequence=1..128]"`.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments of
            `forward`, for modules.
        trust_pickle: Whether a pickled module may be loaded, which can run any code in the file.
        name: What to call the model; otherwise its file, folder, factory or class name.
        notes: Receives remarks a user should see, such as a dimension that had to be fixed.

    Raises:
        ModelError: If the model cannot be read or traced, saying why and what to do.
        UsageError: If the inputs do not fit the model.
        UnsupportedError: If a file calls operators that nothing registers.
        NotAvailableError: For ONNX files.
    """
    request = Request(
        parse_inputs(inputs), example_inputs, trust_pickle, name, [] if notes is None else notes
    )
    if isinstance(model, InMemory):
        return _from_memory(model, request)
    if not isinstance(model, str | Path):
        raise ModelError(f"a model is a path, a module or a program, not {type(model).__name__}")
    path = Path(model)
    if factory.is_reference(str(model)) and not path.exists():
        return _from_factory(str(model), request)
    if path.is_dir():
        from effc.ir.trace.huggingface import open_folder

        return open_folder(path, request)
    from effc.ir.trace.checkpoint import open_file

    return open_file(path, request)


def _from_memory(model: InMemory, request: Request) -> Program:
    if isinstance(model, Program):
        return model
    if isinstance(model, ExportedProgram):
        from effc.ir.trace.saved import from_exported

        return from_exported(model, request.wanted, request.name or "model")
    if isinstance(model, torch.jit.ScriptModule):
        from effc.ir.trace.torchscript import trace_script

        return trace_script(model, request)
    from effc.ir.trace.module import trace_module

    return trace_module(model, request.wanted, request.examples, request.name)


def _from_factory(reference: str, request: Request) -> Program:
    """Open what `package.module:factory` is or returns: a model, or one with example inputs."""
    found = factory.look_up(reference)
    if not isinstance(found, InMemory):
        if not callable(found):
            raise UsageError(f"{reference} is a {type(found).__name__}, not a module or a function")
        found = factory.call(found, reference)
    if isinstance(found, tuple) and len(found) == 2:
        found, examples = found
        request = replace(request, examples=examples)
    if not isinstance(found, InMemory):
        raise UsageError(
            f"{reference} returned a {type(found).__name__}; it must return a module or "
            "(module, example_inputs)"
        )
    name = request.name or reference.rpartition(":")[2]
    return _from_memory(found, replace(request, name=name))
