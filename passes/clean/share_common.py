"""Computes what is computed twice once, and stores equal weights once."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import Kind, op_name, spec_of
from effc.ir.program import Program, set_attribute
from effc.ir.text import WeightHashes
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.matching import size, tensor_of
from effc.passes.clean.settle_views import layouts, settle_views

UNDEFINED = ("aten.empty.memory_format", "aten.new_empty.default", "aten.empty_like.default")


@dataclass(frozen=True)
class ShareCommon(Pass):
    """Lets equal calls of pure operators, equal sizes and equal weights share one node.

    Weights are compared by content. Tensors with one value throughout, such as the biases of an
    untrained model, are equal by accident and are shared only if they are one tensor already, so
    that later passes may change them apart.
    """

    name: ClassVar[str] = "share-common"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Unify weights across methods and nodes within each."""
        before, hashes = layouts(program), WeightHashes()
        _share_storage(program, hashes)
        shared = 0
        for method in program.methods:
            editor = Editor(program, method, self.name)
            shared += _share_nodes(editor, hashes)
            editor.finish()
        exchanged = settle_views(program, before, self.name)
        return Outcome(shared > 0 or exchanged, {"shared": shared})


def _share_storage(program: Program, hashes: WeightHashes) -> None:
    """Make equal weights of different methods, or of different names, one tensor."""
    first: dict[str, torch.Tensor] = {}
    for module in program.methods.values():
        for node in module.graph.find_nodes(op="get_attr"):
            tensor = tensor_of(node)
            if tensor is None or _is_uniform(tensor):
                continue
            kept = first.setdefault(hashes(tensor), tensor)
            if kept is not tensor:
                set_attribute(module, str(node.target), kept)


def _is_uniform(tensor: torch.Tensor) -> bool:
    """Whether a tensor of several elements has only one value."""
    if tensor.numel() < 2:
        return False
    flat = tensor.flatten()
    return bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all())


def _share_nodes(editor: Editor, hashes: WeightHashes) -> int:
    first: dict[Any, fx.Node] = {}
    shared = 0
    for node in list(editor.graph.nodes):
        key = _key(node)
        if key is None:
            continue
        kept = first.setdefault(key, node)
        if kept is not node:
            editor.replace(node, kept)
            shared += 1
    return shared


def _key(node: fx.Node) -> Any:
    """What nodes that may share have in common; None for nodes that may not."""
    if node.op == "get_attr":
        return ("weight", id(tensor_of(node)))
    spec = spec_of(node) if node.op == "call_function" else None
    if spec is None or not spec.is_pure or op_name(node) in UNDEFINED:
        return None
    value = node.meta.get("val")
    if spec.kind is Kind.SCALAR and isinstance(value, torch.SymInt):
        return ("size", size(value))
    return (node.target, repr(node.args), repr(sorted(node.kwargs.items())))
