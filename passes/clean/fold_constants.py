"""Computes at compile time what depends on weights only."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.opspec import Kind, op_name, spec_of
from effc.ir.program import Program
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.matching import dtype, is_tensor, sizes, tensor_of
from effc.passes.clean.naming import folded_path
from effc.passes.clean.settle_views import layouts, settle_views

KEPT = (
    "effc.dequantize.default", "effc.dequantize_grouped.default", "effc.quantize.default",
    "effc.quantize_dynamic.default", "effc.quantize_symmetric.default",
    "effc.unpack_signed.default",
)  # fmt: skip
UNDEFINED = ("aten.empty.memory_format", "aten.new_empty.default", "aten.empty_like.default")
GROWTH = 4
CODES = (torch.int8, torch.uint8)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replaces every subgraph that reads weights only by its result, a new weight.

    Quantized weights stay as they are: `effc.dequantize` is never folded, and what reads it is not
    a constant.

    Attributes:
        max_bytes: Results up to this size are always stored; larger ones only if they take at most
            four times the bytes of the weights they replace.
    """

    name: ClassVar[str] = "fold-constants"
    max_bytes: int = 1 << 20

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Fold each method's constant subgraphs."""
        before = layouts(program)
        folded, refusals = 0, []
        for method in program.methods:
            editor = Editor(program, method, self.name)
            results, refused = self._choose(editor.graph)
            refusals += refused
            folded += len(results)
            for node, value in _evaluated(editor.graph, results):
                path = folded_path(node)
                editor.replace(node, editor.weight(path, value, like=node))
            if results:
                editor.remove_dead()
            editor.finish()
        exchanged = settle_views(program, before, self.name)
        return Outcome(folded > 0 or exchanged, {"folded": folded}, tuple(refusals))

    def _choose(self, graph: fx.Graph) -> tuple[list[fx.Node], list[Refusal]]:
        """The last nodes of the constant subgraphs, and those that would be too large."""
        refused: dict[fx.Node, str] = {}
        while True:
            constants = _constants(graph, refused)
            last = [node for node in constants if _is_read_outside(node, constants)]
            too_large = {node: self._why_not(node, constants) for node in last}
            new = {node: reason for node, reason in too_large.items() if reason}
            if not new:
                break
            refused |= new
        reasons = [Refusal(self.name, label(node), reason) for node, reason in refused.items()]
        return last, reasons

    def _why_not(self, node: fx.Node, constants: dict[fx.Node, None]) -> str:
        nbytes = _nbytes(node)
        if nbytes <= self.max_bytes:
            return ""
        weights = [entry for entry in _below(node) if entry.op == "get_attr"]
        replaced = sum(_nbytes(weight) for weight in weights if _is_lost(weight, constants))
        growth = 1 if any(dtype(weight) in CODES for weight in weights) else GROWTH
        if nbytes <= growth * replaced:
            return ""
        return f"the result takes more than {growth} times the bytes of what it replaces"


def _constants(graph: fx.Graph, refused: dict[fx.Node, str]) -> dict[fx.Node, None]:
    """Calls that read only weights and other such calls, in graph order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        inputs = node.all_input_nodes
        reads_constants = all(entry.op == "get_attr" or entry in found for entry in inputs)
        if reads_constants and node not in refused and _is_foldable(node):
            found[node] = None
    return found


def _is_foldable(node: fx.Node) -> bool:
    spec = spec_of(node) if node.op == "call_function" else None
    if spec is None or not spec.is_pure or spec.kind is Kind.SCALAR:
        return False
    if op_name(node) in (*KEPT, *UNDEFINED):
        return False
    return not is_tensor(node) or all(isinstance(size, int) for size in sizes(node))


def _is_read_outside(node: fx.Node, constants: dict[fx.Node, None]) -> bool:
    return is_tensor(node) and any(user not in constants for user in node.users)


def _is_lost(weight: fx.Node, constants: dict[fx.Node, None]) -> bool:
    """Whether nobody reads a weight any more once all constants are folded."""
    readers = weight.graph.find_nodes(op="get_attr", target=weight.target)
    return all(reader.users.keys() <= constants.keys() for reader in readers)


def _below(node: fx.Node) -> dict[fx.Node, None]:
    """Every node a node reads, directly or not."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        fresh = [entry for entry in waiting.pop().all_input_nodes if entry not in found]
        found |= dict.fromkeys(fresh)
        waiting += fresh
    return found


def _nbytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return int(value.numel()) * int(value.element_size())


def _evaluated(graph: fx.Graph, wanted: list[fx.Node]) -> Iterable[tuple[fx.Node, torch.Tensor]]:
    """Compute nodes and everything they read, each once."""
    values: dict[fx.Node, Any] = {}
    needed = {entry for node in wanted for entry in _below(node)} | set(wanted)
    with torch.no_grad():
        for node in graph.nodes:
            if node not in needed:
                continue
            if node.op == "get_attr":
                values[node] = tensor_of(node)
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda entry: values[entry])
            values[node] = node.target(*args, **kwargs)
    return [(node, _own(values[node])) for node in wanted]


def _own(value: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor that shares no memory with a weight."""
    return value.clone(memory_format=torch.contiguous_format)
