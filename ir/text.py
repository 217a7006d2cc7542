"""Canonical text of a program, and the fingerprint made from it.

The same program always prints the same text: nodes are numbered in graph order and weights are
shown by the hash of their content. Golden tests, diffs between passes and cache keys use it.
"""

import hashlib
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils.weak import WeakTensorKeyDictionary

from effc.ir import provenance
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, dtype_name
from effc.ir.symbols import size_of, text

DIGEST_BYTES = 16


def content_hash(tensor: torch.Tensor) -> str:
    """Hex digest of a tensor's dtype, shape and elements."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class WeightHashes:
    """Content hashes of tensors, computed once per tensor and version."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def __call__(self, tensor: torch.Tensor) -> str:
        """The hash of a tensor; a write to the tensor makes it anew."""
        known = self._known.get(tensor)  # type: ignore[no-untyped-call]
        version, found = known or (-1, "")
        if version != tensor._version:
            version, found = tensor._version, content_hash(tensor)
            self._known[tensor] = (version, found)
        return found


def program_text(
    program: Program, hashes: WeightHashes | None = None, with_sources: bool = True
) -> str:
    """The canonical text of a program.

    Args:
        program: What to print.
        hashes: Remembers the content hashes of weights between calls.
        with_sources: Whether lines end in the module path of the user's model.
    """
    hashes = hashes or WeightHashes()
    lines = [f"symbol {symbol}" for symbol in program.symbols.values()]
    for name, module in program.methods.items():
        lines.append(f"method {name}{program.signatures[name]}")
        lines += _graph_lines(program, module, hashes, with_sources)
    return "\n".join(lines) + "\n"


def fingerprint(program: Program, hashes: WeightHashes | None = None) -> str:
    """Hex digest of the canonical text; equal programs with equal weights have equal ones."""
    text_bytes = program_text(program, hashes, with_sources=False).encode()
    return hashlib.blake2b(text_bytes, digest_size=DIGEST_BYTES).hexdigest()


def _graph_lines(
    program: Program, module: fx.GraphModule, hashes: WeightHashes, with_sources: bool
) -> list[str]:
    inputs = iter(program.signatures[_method_of(program, module)].inputs)
    labels: dict[fx.Node, str] = {}
    lines: list[str] = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            labels[node] = next(inputs).name
            continue
        if node.op == "output":
            lines.append(f"  return {_argument(program, node.args[0], labels)}")
            continue
        labels[node] = f"%{len(lines)}"
        line = f"  {labels[node]} = {_expression(program, module, node, labels, hashes)}"
        path = provenance.source(node) if with_sources and node.op != "get_attr" else ""
        lines.append(f"{line}  @{path}" if path else line)
    return lines


def _method_of(program: Program, module: fx.GraphModule) -> str:
    return next(name for name, candidate in program.methods.items() if candidate is module)


def _expression(
    program: Program,
    module: fx.GraphModule,
    node: fx.Node,
    labels: dict[fx.Node, str],
    hashes: WeightHashes,
) -> str:
    if node.op == "get_attr":
        tensor = attribute(module, node.target)
        return f"weight {node.target} #{hashes(tensor)[:12]} : {_type(program, tensor)}"
    name = node.target if node.op == "call_module" else op_name(node)
    arguments = [_argument(program, argument, labels) for argument in node.args]
    arguments += [f"{k}={_argument(program, v, labels)}" for k, v in sorted(node.kwargs.items())]
    result = _type(program, node.meta.get("val"))
    return f"{name}({', '.join(arguments)}) : {result}"


def _argument(program: Program, value: Any, labels: dict[fx.Node, str]) -> str:
    match value:
        case fx.Node():
            return labels[value]
        case list() | tuple():
            return "[" + ", ".join(_argument(program, item, labels) for item in value) + "]"
        case torch.dtype():
            return dtype_name(value)
        case torch.SymInt():
            return text(size_of(value, program.names))
        case torch.device() | torch.layout() | torch.memory_format():
            return str(value)
        case float():
            return repr(value)
    return str(value)


def _type(program: Program, value: Any) -> str:
    match value:
        case torch.Tensor():
            sizes = [text(size_of(size, program.names)) for size in value.shape]
            return f"{dtype_name(value.dtype)}[{', '.join(sizes)}]"
        case tuple() | list():
            return "(" + ", ".join(_type(program, item) for item in value) + ")"
        case torch.SymInt():
            return f"size {text(size_of(value, program.names))}"
        case torch.SymBool() | torch.SymFloat():
            return f"scalar {_named(program, value.node.expr)}"
        case None:
            return "?"
    return type(value).__name__


def _named(program: Program, expression: sympy.Basic) -> str:
    known = {old: sympy.Symbol(new) for old, new in program.names.items()}
    return str(expression.xreplace(known)).replace(" ", "")
