"""A Program as a torch.export archive (`.pt2`), graph, names and provenance kept as they are.

The exported program is put together from the graph itself, not traced again, so that what is
loaded is what was saved.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from effc.ir.errors import EffcError, ModelError, NotAvailableError, UsageError
from effc.ir.program import FORWARD, Program
from effc.ir.trace.failures import one_line
from effc.ir.trace.inputs import WantedInputs, example_tensors
from effc.ir.trace.quiet import quiet
from effc.ir.trace.record import FILE, record_of, to_json

KEPT_METADATA = ("val", "custom")


def save_program(program: Program, path: str | Path) -> None:
    """Write a program to a file that `open_model` gives back.

    The file appears whole or not at all.

    Args:
        program: With the single method `forward` and no fused regions.
        path: Where to; a file there is replaced.

    Raises:
        UsageError: If the folder does not exist or cannot be written.
        NotAvailableError: If the program has several methods.
        ModelError: If torch cannot write the graph.
    """
    path = Path(path)
    if set(program.methods) != {FORWARD}:
        raise NotAvailableError("writing a program with several methods as .pt2")
    extra = {FILE: to_json(record_of(program))}
    temporary = path.parent / f".{uuid4().hex}.pt2"
    try:
        temporary.touch()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    try:
        with quiet():
            torch.export.save(exported_of(program), temporary, extra_files=extra)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    except EffcError:
        raise
    except Exception as error:  # torch raises whatever it cannot serialise
        raise ModelError(f"cannot write {program.name} as .pt2: {one_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def exported_of(program: Program) -> ExportedProgram:
    """The program's method `forward` as an exported program that shares its weights.

    Raises:
        ModelError: If the graph holds fused regions.
    """
    graph, inputs, weights = _lifted(program)
    outputs: Any = graph.output_node().args[0]
    examples = program.examples.get(FORWARD) or tuple(
        example_tensors(WantedInputs(program.signature.inputs, program.symbols)).values()
    )
    call = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=pytree.tree_structure((tuple(examples), {})),
        out_spec=pytree.tree_structure(tuple(range(len(outputs)))),
        forward_arg_names=[spec.arg.name for spec in inputs if spec.kind == InputKind.USER_INPUT],
    )
    graph.output_node().meta["val"] = tuple(node.meta["val"] for node in outputs)
    results = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(n.name), None) for n in outputs]
    return ExportedProgram(
        root=fx.GraphModule(torch.nn.Module(), graph),
        graph=graph,
        graph_signature=ExportGraphSignature(inputs, results),
        state_dict=weights,
        range_constraints={
            symbol: ValueRanges(program.symbols[name].minimum, program.symbols[name].maximum)
            for symbol, name in program.names.items()
        },
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=(tuple(examples), {}),
        constants={},
    )


def _lifted(program: Program) -> tuple[fx.Graph, list[InputSpec], dict[str, torch.Tensor]]:
    """The graph with its weights as inputs in front, as torch.export has it."""
    graph, specs, mapping = fx.Graph(), [], {}
    weights = program.weights()
    lifted: dict[str, fx.Node] = {}
    for node in program.forward.graph.find_nodes(op="get_attr"):
        if node.target not in lifted:
            new = graph.placeholder("b_" + node.target.replace(".", "_"))
            specs.append(
                InputSpec(InputKind.BUFFER, TensorArgument(new.name), node.target, persistent=True)
            )
            lifted[node.target] = new
        mapping[node] = lifted[node.target]
    for node in program.forward.graph.nodes:
        if node.op == "call_module":
            raise ModelError(f"cannot write {program.name} as .pt2: it holds fused regions")
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], lambda old: mapping[old]))
        elif node.op != "get_attr":
            mapping[node] = graph.node_copy(node, lambda old: mapping[old])
        if node.op == "placeholder":
            specs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(mapping[node].name), None))
    for node in graph.find_nodes(op="placeholder"):
        node.target = node.name  # the parameter in generated source; names are distinct
    for old, new in mapping.items():
        new.meta = {key: old.meta[key] for key in KEPT_METADATA if key in old.meta}
    return graph, specs, weights
