"""Names the user knows: inputs by their parameter, dimensions by what the user called them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram

from effc.ir.errors import UsageError
from effc.ir.program import FORWARD, Program, TensorSpec, dtype_name
from effc.ir.symbols import Size, Symbol, text
from effc.ir.trace.inputs import LARGEST, WantedInputs

BATCH, SEQUENCE, HEIGHT, WIDTH = "batch", "sequence", "height", "width"


def symbol_dims(exported: ExportedProgram, wanted: WantedInputs) -> dict[str, str]:
    """Names for the symbolic dimensions of an exported program that carries none.

    What the user wants comes first. Else the first dimension of an input is the batch, the second
    of an integer matrix (token numbers) the sequence, the last two of an image height and width;
    a name is given once, other dimensions keep the default `<input>_<position>`.

    Returns:
        A name per `<input>.<position>`, as `program_of` takes them.
    """
    dims = wanted_dims(wanted)
    taken = set(dims.values())
    seen: set[str] = set()
    for name, value in _user_tensors(exported):
        for position, size in enumerate(value.shape):
            if isinstance(size, int) or str(size) in seen:
                continue
            seen.add(str(size))
            derived = _dimension_name(value, position)
            if derived and derived not in taken and f"{name}.{position}" not in dims:
                dims[f"{name}.{position}"] = derived
                taken.add(derived)
    return dims


def wanted_dims(wanted: WantedInputs) -> dict[str, str]:
    """The user's names of symbolic dimensions, as `program_of` takes them."""
    return {
        f"{spec.name}.{position}": size.name
        for spec in wanted.specs
        for position, size in enumerate(spec.shape)
        if not isinstance(size, int)
    }


def rename(program: Program, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the inputs and outputs of the signature other names, in order."""
    old = program.signature
    pairs = [zip(old.inputs, inputs, strict=True), zip(old.outputs, outputs, strict=True)]
    specs = [tuple(replace(spec, name=name) for spec, name in pair) for pair in pairs]
    program.signatures[FORWARD] = replace(old, inputs=specs[0], outputs=specs[1])


def check_wanted(program: Program, wanted: WantedInputs) -> None:
    """Check `--input` texts against a program that has its inputs, and narrow its ranges to them.

    Raises:
        UsageError: Naming the input or dimension where the text and the model differ.
    """
    names = sorted(program.names.values())
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--input calls different dimensions {twice[0]}; give each its own name")
    known = {spec.name: spec for spec in program.signature.inputs}
    for spec in wanted.specs:
        if spec.name not in known:
            raise UsageError(f"--input names {spec.name}; the model takes {', '.join(known)}")
        _check_type(known[spec.name], spec)
        for position, asked in enumerate(spec.shape):
            found = known[spec.name].shape[position]
            where = f"dimension {position} of {spec.name}"
            _check_size(where, found, asked)
            if not isinstance(asked, int):
                _narrow(program, where, wanted.symbols[asked.name])


def _user_tensors(exported: ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    users = set(exported.graph_signature.user_inputs)
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in users and isinstance(node.meta.get("val"), torch.Tensor):
            yield node.name, node.meta["val"]


def _dimension_name(value: torch.Tensor, position: int) -> str:
    if position == 0:
        return BATCH
    if value.dtype.is_floating_point and value.dim() == 4:
        return {2: HEIGHT, 3: WIDTH}.get(position, "")
    is_tokens = not value.dtype.is_floating_point and value.dim() == 2
    return SEQUENCE if is_tokens else ""


def _check_type(found: TensorSpec, asked: TensorSpec) -> None:
    if found.dtype != asked.dtype:
        wrong, right = dtype_name(asked.dtype), dtype_name(found.dtype)
        raise UsageError(f"--input gives {asked.name} the dtype {wrong}; the model takes {right}")
    if len(found.shape) != len(asked.shape):
        raise UsageError(f"--input gives {asked}; the model takes {found}")


def _check_size(where: str, found: Size, asked: Size) -> None:
    if isinstance(found, int) and found != asked:
        raise UsageError(f"{where} is fixed at {found} in the model; --input gives {text(asked)}")
    if found != asked:
        raise UsageError(f"{where} is {text(found)} in the model; --input gives {text(asked)}")


def _narrow(program: Program, where: str, asked: Symbol) -> None:
    current = program.symbols[asked.name]
    if (asked.minimum, asked.maximum) == (1, LARGEST):
        return
    if asked.minimum < current.minimum or asked.maximum > current.maximum:
        raise UsageError(f"{where} may be {current.minimum}..{current.maximum}, not {asked}")
    program.symbols[asked.name] = asked
