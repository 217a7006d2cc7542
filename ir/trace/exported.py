"""torch.export programs to effc programs.

Every other front door ends here: it produces a `torch.export.ExportedProgram`, and this module
turns that into the functional form with weights under the user's names.
"""

from typing import Any

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from effc.ir import provenance
from effc.ir.errors import ModelError
from effc.ir.program import FORWARD, Program, Signature, TensorSpec, set_attribute
from effc.ir.symbols import Symbol, size_of
from effc.ir.trace.labels import input_labels, output_labels

LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
STATE_PREFIX = "state."
BOOKKEEPING = {
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
}
MAXIMUM = 1 << 31


def program_of(
    exported: ExportedProgram,
    name: str,
    dims: dict[str, str] | None = None,
    is_functional: bool = False,
) -> Program:
    """Turn an exported program into an effc program.

    Args:
        exported: From `torch.export`, decomposed or not.
        name: What the user calls the model.
        dims: Names for symbolic dimensions: `{"input_ids.0": "batch"}`. Dimensions without a name
            here are called `<input>_<position>`.
        is_functional: Whether the graph is in effc's form already, as effc's own files are.

    Raises:
        ModelError: If the program takes something other than tensors.
    """
    original = exported
    if not is_functional:
        exported = exported.run_decompositions({})
    module = fx.GraphModule(torch.nn.Module(), fx.Graph())
    state = _state(exported)
    graph, inputs = _unlift(exported, module, input_labels(original, exported, state))
    outputs = _outputs(exported, graph)
    module.graph = graph
    _drop_bookkeeping(graph)
    provenance.record_sources(graph.nodes)
    names = _symbol_names(inputs, dims or {})
    program = Program(name, {FORWARD: module}, {}, _symbols(exported, names), names)
    program.signatures[FORWARD] = Signature(
        tuple(_spec(program, node, label) for label, node in inputs.items()),
        tuple(_spec(program, node, label) for label, node in outputs),
    )
    program.examples = _examples(exported, state, program)
    graph.lint()
    module.recompile()
    return program


def _state(exported: ExportedProgram) -> dict[str, str]:
    """Mutated buffers (by target) and the name they get as an explicit input and output."""
    mutated = exported.graph_signature.buffers_to_mutate.values()
    return {target: STATE_PREFIX + target for target in mutated}


def _unlift(
    exported: ExportedProgram, module: fx.GraphModule, labels: dict[str, str]
) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """Copy the graph with inputs first, then weights as attributes; return it with its inputs."""
    graph, mapping, inputs, weights = fx.Graph(), {}, {}, []
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    for node in exported.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        if spec.kind in LIFTED and node.name not in labels:
            weights.append((node, spec.target))
            continue
        mapping[node] = graph.node_copy(node)
        label = labels.get(node.name, node.name)
        if isinstance(node.meta.get("val"), torch.Tensor):
            inputs[label] = mapping[node]
        elif node.users:
            raise ModelError(f"input {label} is not a tensor; bind it to a constant before export")
        else:
            graph.erase_node(mapping[node])
    for node, target in weights:
        if node.users:
            set_attribute(module, target, _tensor(exported, target))
            mapping[node] = graph.get_attr(target)
    for node in exported.graph.nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], lambda old: mapping[old]))
        elif node.op != "placeholder":
            mapping[node] = graph.node_copy(node, lambda old: mapping[old])
    for old, new in mapping.items():
        new.meta = dict(old.meta)
    return graph, inputs


def _tensor(exported: ExportedProgram, target: str) -> torch.Tensor:
    """A parameter, buffer or lifted constant, detached and contiguous."""
    found = exported.state_dict.get(target)
    value = found if found is not None else exported.constants[target]
    tensor: torch.Tensor = value.detach()
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _outputs(exported: ExportedProgram, graph: fx.Graph) -> list[tuple[str, fx.Node]]:
    """Name the graph's outputs after the module's own structure and keep only tensors."""
    specs = exported.graph_signature.output_specs
    labels = iter(output_labels(exported))
    kept: list[tuple[str, fx.Node]] = []
    output = graph.output_node()
    results: Any = output.args[0]
    for spec, node in zip(specs, results, strict=True):
        if spec.kind == OutputKind.USER_OUTPUT:
            label = next(labels)
            if isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor):
                kept.append((label, node))
        elif spec.kind == OutputKind.BUFFER_MUTATION:
            kept.append((STATE_PREFIX + spec.target, node))
        else:
            raise ModelError(f"the model writes to its input {spec.target}; return it instead")
    if not kept:
        raise ModelError("the model returns no tensor")
    output.args = (tuple(node for _, node in kept),)
    return kept


def _drop_bookkeeping(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and node.target in BOOKKEEPING:
            graph.erase_node(node)


def _symbol_names(inputs: dict[str, fx.Node], dims: dict[str, str]) -> dict[sympy.Symbol, str]:
    """Name torch's symbols after the first input dimension that is exactly that symbol."""
    names: dict[sympy.Symbol, str] = {}
    for label, node in inputs.items():
        for position, size in enumerate(node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                wanted = dims.get(f"{label}.{position}", f"{label}_{position}".replace(".", "_"))
                names.setdefault(size.node.expr, wanted)
    return names


def _symbols(exported: ExportedProgram, names: dict[sympy.Symbol, str]) -> dict[str, Symbol]:
    ranges = exported.range_constraints
    symbols = {}
    for torch_symbol, name in names.items():
        bounds = ranges.get(torch_symbol)
        low = max(int(bounds.lower), 1) if bounds and bounds.lower.is_Integer else 1
        high = int(bounds.upper) if bounds and bounds.upper.is_Integer else MAXIMUM
        symbols[name] = Symbol(name, low, min(high, MAXIMUM))
    return symbols


def _spec(program: Program, node: fx.Node, label: str) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(label, value.dtype, tuple(size_of(s, program.names) for s in value.shape))


def _examples(
    exported: ExportedProgram, state: dict[str, str], program: Program
) -> dict[str, tuple[torch.Tensor, ...]]:
    """The example inputs of the export, in the order of the signature, where it kept them."""
    from torch.utils import _pytree as pytree

    if exported.example_inputs is None:
        return {}
    arguments, keywords = exported.example_inputs
    ordered = [*arguments, *[keywords[key] for key in _keyword_order(exported, keywords)]]
    tensors = [leaf for leaf in pytree.tree_leaves(ordered) if isinstance(leaf, torch.Tensor)]
    initial = {label: _tensor(exported, target).clone() for target, label in state.items()}
    remaining = iter(tensors)
    try:
        found = tuple(
            initial[spec.name] if spec.name in initial else next(remaining)
            for spec in program.signature.inputs
        )
    except StopIteration:
        return {}
    return {FORWARD: found}


def _keyword_order(exported: ExportedProgram, keywords: dict[str, Any]) -> list[str]:
    spec = exported.call_spec.in_spec
    context = spec.children()[1].context if spec is not None else None
    return list(context) if context is not None else list(keywords)
