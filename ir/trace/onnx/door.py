"""ONNX models to programs: read, check, trace node by node, name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

import effc.ir.ops  # noqa: F401  (registers effc's operators)
from effc.ir.errors import EffcError, ModelError, UnsupportedError
from effc.ir.program import FORWARD, Program, TensorSpec
from effc.ir.symbols import Size, Symbol
from effc.ir.trace.exported import program_of
from effc.ir.trace.failures import explain, violations
from effc.ir.trace.inputs import WantedInputs, example_tensors
from effc.ir.trace.names import rename
from effc.ir.trace.onnx.call import NeedsValueError, outside_tracing
from effc.ir.trace.onnx.check import check_operators, origins
from effc.ir.trace.onnx.inputs import inputs_of
from effc.ir.trace.onnx.interpreter import Interpreter
from effc.ir.trace.onnx.limits import check_fits
from effc.ir.trace.onnx.reading import Model, read_file, read_model
from effc.ir.trace.onnx.settled import copies_of_casts, is_settled
from effc.ir.trace.onnx.weight_names import name_weights
from effc.ir.trace.quiet import quiet
from effc.ir.trace.request import Request

FIXED = 1
Values = Mapping[str, torch.Tensor]


class UnknownValueError(UnsupportedError):
    """An operator needs values in advance that the model takes as inputs.

    Attributes:
        inputs: Names of those inputs.
    """

    def __init__(self, error: NeedsValueError, inputs: list[str]) -> None:
        EffcError.__init__(
            self,
            f"{error}: it must be known in advance, but is computed from "
            f"{', '.join(inputs) or 'values of the model'}",
        )
        self.operators = []
        self.inputs = inputs


def open_onnx(path: Path, request: Request) -> Program:
    """Open an ONNX file.

    Raises:
        ModelError: If it is damaged, or a node does not work; names the node and operator.
        UnsupportedError: Listing every operator that is not supported.
        UsageError: If the user's inputs do not fit it.
    """
    model = read_file(path)
    return import_model(model, replace(request, name=request.name or path.stem))


def open_model_proto(
    proto: Any, request: Request, folder: Path | None = None, values: Values | None = None
) -> Program:
    """Translate a ModelProto.

    Args:
        proto: The message.
        request: What the user asks for.
        folder: Where external data lie.
        values: Inputs whose values are built into the program; they are no inputs of it.

    Raises:
        EffcError: As `open_onnx`.
    """
    return import_model(read_model(proto, folder), request, values)


def import_model(model: Model, request: Request, values: Values | None = None) -> Program:
    """Translate a checked model; dimensions it restricts get its limits, or are fixed.

    Raises:
        EffcError: As `open_onnx`.
    """
    check_operators(model)
    fixed = dict(values or {})
    wanted = inputs_of(model, request.wanted, fixed)
    name = request.name or model.graph.name or "model"
    try:
        return _translated(model, wanted, fixed, name)
    except EffcError as error:
        limited = _limited(wanted, request.wanted, error)
        found = None if limited is None else _attempted(model, limited, fixed, name)
        if limited is not None and found is not None:
            request.notes.extend(
                f"the dimension {symbol.name} may be {symbol.minimum} to {symbol.maximum} only"
                for symbol in limited.symbols.values()
                if symbol != wanted.symbols[symbol.name]
            )
            return found
        blamed = {found.symbol for found in violations(error.__cause__ or error)}
        free = wanted.symbols.keys() - request.wanted.symbols.keys()
        sizes = dict.fromkeys((blamed & free) or free, FIXED)
        if not sizes or blamed & request.wanted.symbols.keys():
            raise
        program = _attempted(model, _with_sizes(wanted, sizes), fixed, name)
        if program is None:
            raise error from None
        request.notes.extend(
            f"the dimension {symbol} is fixed at {size}; --input gives it another size: {error}"
            for symbol, size in sizes.items()
        )
        return program


def _attempted(
    model: Model, wanted: WantedInputs, fixed: dict[str, torch.Tensor], name: str
) -> Program | None:
    try:
        return _translated(model, wanted, fixed, name)
    except EffcError:
        return None


def _limited(wanted: WantedInputs, asked: WantedInputs, error: EffcError) -> WantedInputs | None:
    """The ranges a model allows of dimensions the user says nothing of; None without any."""
    ranges = {
        one.symbol: Symbol(one.symbol, *one.bounds)
        for one in violations(error.__cause__ or error)
        if one.bounds and one.symbol in wanted.symbols and one.symbol not in asked.symbols
    }
    return WantedInputs(wanted.specs, {**wanted.symbols, **ranges}) if ranges else None


def _with_sizes(wanted: WantedInputs, sizes: dict[str, int]) -> WantedInputs:
    def shape(spec: TensorSpec) -> tuple[Size, ...]:
        return tuple(sizes.get(str(size), size) for size in spec.shape)

    specs = tuple(replace(spec, shape=shape(spec)) for spec in wanted.specs)
    rest = {name: symbol for name, symbol in wanted.symbols.items() if name not in sizes}
    return WantedInputs(specs, rest)


class _Traced(torch.nn.Module):
    """A model as torch.export sees it: a function of the inputs that are left."""

    def __init__(self, interpreter: Interpreter, names: list[str], values: Values) -> None:
        super().__init__()
        self.interpreter, self.names = interpreter, names
        self.values = [(name, value) for name, value in values.items()]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Evaluate the graph; no result is an input or a constant itself."""
        given = {**dict(self.values), **dict(zip(self.names, inputs, strict=True))}
        outputs = self.interpreter.evaluate(given)
        seen: set[int] = {id(value) for value in inputs}
        results = []
        for name, value in zip(self.interpreter.model.graph.outputs, outputs, strict=True):
            results.append(_result(name, value, seen))
            seen.add(id(value))
        return tuple(results)


def _result(name: str, value: Any, seen: set[int]) -> torch.Tensor:
    if hasattr(value, "tensor"):
        value = value.tensor()
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"the output {name} is not a tensor")
    return value.clone() if type(value) is torch.Tensor or id(value) in seen else value


def _translated(model: Model, wanted: WantedInputs, values: Values, name: str) -> Program:
    for spec in wanted.specs:
        check_fits(spec.shape, spec.dtype.itemsize, f"input {spec.name}")
    interpreter = Interpreter(model)
    names = [spec.name for spec in wanted.specs]
    module = _Traced(interpreter, names, values).eval()
    examples = tuple(example_tensors(wanted).values())
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(
                module, examples, dynamic_shapes=_dynamic(wanted), strict=False
            )
            copies_of_casts(exported)
            program = program_of(exported, name, _dims(exported, wanted), is_settled(exported))
    except NeedsValueError as error:
        raise UnknownValueError(error, origins(model, error.reads, names)) from error
    except Exception as error:  # torch raises whatever its operators raise
        raise explain(error, f"cannot import {name}") from error
    with outside_tracing():
        name_weights(program, exported, interpreter.constants)
    rename(program, names, model.graph.outputs)
    for node in program.forward.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            check_fits(value.shape, value.element_size(), f"the value {node.name}")
    program.examples[FORWARD] = examples
    return program


def _dynamic(wanted: WantedInputs) -> Any:
    if not wanted.symbols:
        return None
    dims = {
        name: Dim(name, min=symbol.minimum, max=symbol.maximum)
        for name, symbol in wanted.symbols.items()
    }
    shapes = tuple(
        {
            place: dims[str(size)]
            for place, size in enumerate(spec.shape)
            if not isinstance(size, int)
        }
        for spec in wanted.specs
    )
    return {"inputs": shapes}


def _dims(exported: ExportedProgram, wanted: WantedInputs) -> dict[str, str]:
    users = exported.graph_signature.user_inputs
    return {
        f"{user}.{place}": str(size)
        for user, spec in zip(users, wanted.specs, strict=True)
        for place, size in enumerate(spec.shape)
        if not isinstance(size, int)
    }
