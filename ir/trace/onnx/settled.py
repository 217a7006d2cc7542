"""Telling whether a traced graph is in effc's form already: torch's decomposition is slow."""

import torch
from torch._C import DispatchKey
from torch._export.utils import _is_preservable_cia_op
from torch._ops import OpOverload
from torch.export import ExportedProgram

COMPOSITE = DispatchKey.CompositeImplicitAutograd
CAST, COPY = torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default


def copies_of_casts(exported: ExportedProgram) -> None:
    """Turn every cast into what the decomposition makes of it: a copy of another dtype."""
    for node in exported.graph.nodes:
        if node.op == "call_function" and node.target is CAST:
            node.target, node.kwargs = COPY, {"dtype": node.args[1]}
            node.args = node.args[:1]
    exported.graph_module.recompile()


def is_settled(exported: ExportedProgram) -> bool:
    """Whether every operator of a graph is one that torch's decomposition would keep."""
    targets = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    return all(_is_kept(target) for target in targets if isinstance(target, OpOverload))


def _is_kept(target: OpOverload) -> bool:
    if target._schema.is_mutable:
        return False
    return not target.has_kernel_for_dispatch_key(COMPOSITE) or _is_preservable_cia_op(target)
