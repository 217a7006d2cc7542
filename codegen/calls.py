"""The regions of a placed program: what each call computes, from which operands, into what."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from effc.codegen.access import Access
from effc.codegen.region import Region
from effc.ir.opspec import op_name
from effc.passes.lower.placement import Placements

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Call:
    """One call of a region.

    Attributes:
        node: The call in the outer graph.
        region: What is called.
        operands: Nodes of the outer graph it reads.
        results: Nodes of the outer graph it computes.
    """

    node: fx.Node
    region: Region
    operands: list[fx.Node]
    results: list[fx.Node]


def calls_of(placements: Placements, names: Any) -> list[Call]:
    """Every call of a region, in order.

    Args:
        placements: A placed method.
        names: torch's symbols to the user's, as in the program.
    """
    nodes = placements.module.graph.nodes
    return [
        _call(placements, names, node)
        for node in nodes
        if node.op == "call_module" and node not in placements.in_place
    ]


def _call(placements: Placements, names: Any, node: fx.Node) -> Call:
    operands = [arg for arg in node.args if isinstance(arg.meta.get("val"), torch.Tensor)]
    results = sorted(
        (user for user in node.users if op_name(user) == "getitem"), key=lambda u: u.args[1]
    )

    def access(tensor: fx.Node) -> Access:
        place = placements.places[tensor]
        return Access(tensor.meta["val"].dtype, place.shape, place.strides)

    region = Region(
        placements.module.get_submodule(node.target),
        tuple(map(access, operands)),
        tuple(map(access, results)),
        tuple(operand.op == "get_attr" for operand in operands),
        names,
    )
    return Call(node, region, operands, results)


def fingerprint(region: Region) -> str:
    """Hex digest that is equal for regions one kernel serves, in every process."""
    return hashlib.blake2b(region.key().encode(), digest_size=DIGEST_BYTES).hexdigest()
