"""Programs in torch.export archives: effc's own, with the names they had, and anybody's."""

from dataclasses import replace
from pathlib import Path

from torch.export import ExportedProgram

import effc.ir.ops  # noqa: F401  (registers effc's operators before an archive names them)
from effc.ir.errors import InputError, ModelError
from effc.ir.program import FORWARD, Program, attribute, bind_sizes
from effc.ir.trace import record
from effc.ir.trace.archive import open_archive
from effc.ir.trace.exported import program_of
from effc.ir.trace.failures import explain
from effc.ir.trace.inputs import WantedInputs, example_tensors
from effc.ir.trace.names import check_wanted, rename, symbol_dims
from effc.ir.trace.quiet import quiet
from effc.ir.trace.request import Request


def open_saved(path: Path, request: Request) -> Program:
    """Open a torch.export archive; names come from the user, effc's record in it, or its form.

    Raises:
        ModelError: If it is damaged, could run code, or cannot be translated.
        UnsupportedError: If it calls operators that are not registered.
        UsageError: If the user's inputs contradict it.
    """
    archive = open_archive(path)
    if record.FILE not in archive.extra:
        return from_exported(archive.exported, request.wanted, request.name or path.stem)
    found = record.from_json(archive.extra[record.FILE])
    return from_exported(archive.exported, request.wanted, request.name or found.name, found)


def from_exported(
    exported: ExportedProgram,
    wanted: WantedInputs,
    name: str,
    found: record.Record | None = None,
) -> Program:
    """Translate an exported program.

    Args:
        exported: From `torch.export` or a checked archive.
        wanted: What the user says of its inputs; checked, may be empty.
        name: What the user calls the model.
        found: effc's record of the program, where there is one.

    Raises:
        ModelError: If it cannot be translated.
        UsageError: If `wanted` contradicts it.
    """
    try:
        dims = _dims(exported, wanted, found)
        with quiet():
            program = program_of(exported, name, dims, bool(found) and _is_functional(exported))
    except Exception as error:  # torch raises whatever it finds in the graph
        raise explain(error, f"cannot translate {name}") from error
    _check_weights(program)
    if found:
        _restore(program, found)
    check_wanted(program, wanted)
    _complete_examples(program)
    return program


def _check_weights(program: Program) -> None:
    """Check that the weights are what the graph says; a file may hold others."""
    for node in program.forward.graph.find_nodes(op="get_attr"):
        weight, expected = attribute(program.forward, str(node.target)), node.meta["val"]
        if weight.dtype != expected.dtype or weight.shape != expected.shape:
            raise ModelError(
                f"the weight {node.target} of {program.name} is {weight.dtype} "
                f"{list(weight.shape)}; its graph expects {expected.dtype} {list(expected.shape)}"
            )


def _is_functional(exported: ExportedProgram) -> bool:
    """Whether no operator writes to its inputs, so that nothing is left to decompose."""
    schemas = (getattr(node.target, "_schema", None) for node in exported.graph.nodes)
    return not any(schema is not None and schema.is_mutable for schema in schemas)


def _dims(
    exported: ExportedProgram, wanted: WantedInputs, found: record.Record | None
) -> dict[str, str]:
    """Names of symbolic dimensions by the names inputs have inside the file."""
    if not found:
        return symbol_dims(exported, wanted)
    users = list(exported.graph_signature.user_inputs)
    if not wanted.specs:
        parts = ((key.partition("."), name) for key, name in found.dims.items())
        return {f"{users[int(number)]}.{position}": name for (number, _, position), name in parts}
    inside = dict(zip(found.inputs, users, strict=False))
    specs = [replace(spec, name=inside.get(spec.name, spec.name)) for spec in wanted.specs]
    return symbol_dims(exported, replace(wanted, specs=tuple(specs)))


def _restore(program: Program, found: record.Record) -> None:
    counts = len(program.signature.inputs), len(program.signature.outputs)
    if counts != (len(found.inputs), len(found.outputs)):
        raise ModelError(f"the record {record.FILE} of {program.name} is of another program")
    rename(program, found.inputs, found.outputs)
    record.restore(program, found)


def _complete_examples(program: Program) -> None:
    """Make example inputs where the file has none that satisfy the signature."""
    examples = record.examples_by_name(program)
    try:
        bind_sizes(program.signature, program.symbols, examples)
    except InputError:
        made = example_tensors(WantedInputs(program.signature.inputs, program.symbols))
        program.examples[FORWARD] = tuple(made.values())
