"""Structural rules every program keeps, checked around every pass.

The verifier is a readable list of rules; each yields the violations it finds.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from effc.ir.errors import VerifyError
from effc.ir.opspec import Kind, op_name, spec_of
from effc.ir.program import Program, TensorSpec, attribute
from effc.ir.symbols import size_of, text

ALLOWED_OPS = ("placeholder", "get_attr", "call_function", "call_module", "output")


def verify(program: Program) -> None:
    """Check every rule on every method.

    Raises:
        VerifyError: Naming the rule, the node and what is wrong.
    """
    for method, module in program.methods.items():
        for rule in RULES:
            for problem in rule(program, method, module):
                raise VerifyError(f"{program.name}.{method}: {problem}")


def propagate(program: Program, method: str) -> None:
    """Recompute `node.meta["val"]` of every node from the placeholders' fake tensors."""
    module = program.methods[method]
    placeholders = [n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"]
    values = [node.meta.get("val") for node in module.graph.nodes]
    mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), None)
    with enable_python_dispatcher():  # C++ decompositions fix symbolic sizes to numbers
        FakeTensorProp(module, mode).propagate_dont_convert_inputs(*placeholders)


def _lint(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    try:
        module.graph.lint()
    except RuntimeError as error:
        yield str(error).splitlines()[0]


def _node_kinds(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    for node in module.graph.nodes:
        if node.op not in ALLOWED_OPS:
            yield f"{node.name} is a {node.op} node"
        elif node.op == "call_function" and _is_in_place(node):
            yield f"{node.name} calls the in-place operator {op_name(node)}"


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and op_name(node) != "aten.detach_.default"


def _values(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    for node in module.graph.nodes:
        if node.op != "output" and "val" not in node.meta:
            yield f"{node.name} has no value description"


def _weights(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        try:
            tensor = attribute(module, node.target)
        except (AttributeError, TypeError) as error:
            yield f"weight {node.target} does not exist: {error}"
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and _kind(tensor) != _kind(value):
            yield f"weight {node.target} is {_kind(tensor)}, its node says {_kind(value)}"


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[Any, ...]]:
    return tensor.dtype, tuple(tensor.shape)


def _interface(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    signature = program.signatures[method]
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    outputs = module.graph.output_node().args[0]
    for nodes, specs, word in (
        (inputs, signature.inputs, "inputs"),
        (outputs, signature.outputs, "outputs"),
    ):
        if len(nodes) != len(specs):
            yield f"has {len(nodes)} {word}, its signature {len(specs)}"
            continue
        for node, spec in zip(nodes, specs, strict=True):
            yield from _against_spec(program, node, spec)


def _against_spec(program: Program, node: fx.Node, spec: TensorSpec) -> Iterator[str]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        yield f"{spec.name} is not a tensor"
        return
    shape = tuple(size_of(size, program.names) for size in value.shape)
    if value.dtype != spec.dtype or shape != spec.shape:
        found = f"{value.dtype}[{', '.join(map(text, shape))}]"
        yield f"{spec.name} is {found}, its signature says {spec}"


def _types(program: Program, method: str, module: fx.GraphModule) -> Iterator[str]:
    """Propagate shapes and dtypes afresh and compare with what the nodes say."""
    before = {n: _describe(program, n.meta.get("val")) for n in module.graph.nodes}
    metas = {n: n.meta.get("val") for n in module.graph.nodes}
    try:
        propagate(program, method)
    except Exception as error:  # PyTorch raises whatever its operators raise
        yield f"shapes do not propagate: {str(error).splitlines()[0]}"
        return
    for node, was in before.items():
        now = _describe(program, node.meta.get("val"))
        if metas[node] is not None:
            node.meta["val"] = metas[node]
        if node.op != "output" and was != now:
            yield f"{node.name} ({op_name(node)}) says {was}, propagation gives {now}"


def _describe(program: Program, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        sizes = [text(size_of(size, program.names)) for size in value.shape]
        return f"{value.dtype}[{','.join(sizes)}]"
    if isinstance(value, tuple | list):
        return f"({', '.join(_describe(program, item) for item in value)})"
    if isinstance(value, torch.SymInt):
        return text(size_of(value, program.names))
    return str(value)


RULES = (_lint, _node_kinds, _values, _weights, _interface, _types)


def unknown_operators(program: Program) -> list[fx.Node]:
    """Every node whose operator has no entry in the op table."""
    return [
        node
        for module in program.methods.values()
        for node in module.graph.nodes
        if node.op == "call_function" and spec_of(node) is None
    ]


def is_scalar(node: fx.Node) -> bool:
    """Whether a node computes a size, not a tensor."""
    found = spec_of(node) if node.op == "call_function" else None
    return found is not None and found.kind == Kind.SCALAR
