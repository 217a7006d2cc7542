"""Which operators there is code for, so that all others can be named at once before any work."""

import torch
from torch import fx

from effc.codegen import arithmetic, movement, select
from effc.codegen.families.reduce import PLAIN
from effc.codegen.families.scan import is_scan
from effc.codegen.reduce_lanes import REDUCTIONS
from effc.ir.errors import Unsupported
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import Program
from effc.ir.provenance import source
from effc.passes.lower.views import has_rule

POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d")


def has_code(node: fx.Node) -> bool:
    """Whether some kernel family computes a node's operator."""
    name = op_name(node)
    kind = kind_of(node)
    if kind == Kind.SCALAR:
        return True
    if kind == Kind.VIEW:
        return name != "getitem" and has_rule(node)
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return False
    base = arithmetic.base_name(name)
    known = arithmetic.RULES.keys() | movement.RULES.keys() | set(POOLS) | PLAIN.keys()
    return base in known or name in select.FAMILIES or name in REDUCTIONS or is_scan(node)


def unsupported(program: Program) -> list[Unsupported]:
    """Every operator of a lowered (not yet fused) program without code, each once."""
    found: dict[str, Unsupported] = {}
    for module in program.methods.values():
        for node in module.graph.nodes:
            if node.op == "call_function" and not has_code(node):
                add(found, op_name(node), source(node), "no kernel computes it")
    return [entry for name, entry in found.items() if name != "getitem" or len(found) == 1]


def add(found: dict[str, Unsupported], name: str, where: str, reason: str) -> None:
    """Count one more node with an unsupported operator."""
    before = found.get(name)
    if before is None:
        found[name] = Unsupported(name, where, reason)
    else:
        found[name] = Unsupported(name, before.source, before.reason, before.count + 1)
