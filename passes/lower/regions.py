"""The pass that makes kernels of operators: one submodule per region.

Each region becomes a `call_module` of a small graph, so the lowered program still runs in PyTorch
and every kernel has its own reference.
"""

import operator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import networkx as nx
import torch
from torch import fx

from effc.ir import provenance
from effc.ir.opspec import Kind, kind_of
from effc.ir.program import Program, attribute, set_attribute
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.lower.grouping import Group, Grouping

Unit: TypeAlias = fx.Node | int


@dataclass(frozen=True)
class FuseRegions(Pass):
    """Group operators that one kernel computes into submodules."""

    name: ClassVar[str] = "fuse-regions"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Replace every group of operators by a call of a submodule."""
        counts = {}
        for method, module in list(program.methods.items()):
            grouping = Grouping(program, module)
            program.methods[method] = _extract(module, grouping)
            counts[method] = len(grouping.groups)
        return Outcome(any(counts.values()), {"regions": counts})


def _extract(module: fx.GraphModule, grouping: Grouping) -> fx.GraphModule:
    """Build the outer graph, with a submodule per group."""
    groups = grouping.groups
    result = fx.GraphModule(torch.nn.Module(), fx.Graph())
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for unit in _sorted_units(module, grouping, groups):
        if isinstance(unit, int):
            _call_region(result, graph, groups[unit], unit, mapping, grouping)
        else:
            new = graph.node_copy(unit, lambda old: mapping[old])
            new.meta = dict(unit.meta)
            mapping[unit] = new
            if unit.op == "get_attr":
                set_attribute(result, unit.target, attribute(module, unit.target))
    result.graph = graph
    return result


def _sorted_units(module: fx.GraphModule, grouping: Grouping, groups: list[Group]) -> list[Unit]:
    """Groups and the nodes outside them, operands first, in the original order where free."""
    number = {id(group): position for position, group in enumerate(groups)}

    def unit(node: fx.Node) -> Unit:
        group = grouping.group_of.get(node)
        return node if group is None else number[id(group)]

    order = nx.DiGraph()
    first: dict[Unit, int] = {}
    for position, node in enumerate(module.graph.nodes):
        first.setdefault(unit(node), position)
        order.add_node(unit(node))
        for operand in node.all_input_nodes:
            if unit(operand) != unit(node):
                order.add_edge(unit(operand), unit(node))
    return list(nx.lexicographical_topological_sort(order, key=lambda u: first[u]))


def _call_region(
    result: fx.GraphModule,
    graph: fx.Graph,
    group: Group,
    number: int,
    mapping: dict[fx.Node, fx.Node],
    grouping: Grouping,
) -> None:
    nodes = sorted(group.nodes, key=lambda node: grouping.order[node])
    inputs = _ordered_inputs(nodes, group)
    outputs = [node for node in nodes if any(user not in group.nodes for user in node.users)]
    name = f"region_{number}"
    result.add_submodule(name, region_module(inputs, nodes, outputs))
    call = graph.call_module(name, tuple(mapping[node] for node in inputs))
    leader = _leader(nodes)
    call.meta = {"val": tuple(node.meta["val"] for node in outputs)}
    call.meta["custom"] = dict(leader.meta.get("custom", {}))
    for position, node in enumerate(outputs):
        item = graph.call_function(operator.getitem, (call, position))
        item.meta = {"val": node.meta["val"], "custom": dict(node.meta.get("custom", {}))}
        mapping[node] = item


def _ordered_inputs(nodes: list[fx.Node], group: Group) -> list[fx.Node]:
    ordered = [arg for node in nodes for arg in node.all_input_nodes if arg not in group.nodes]
    return list(dict.fromkeys(ordered))


def _leader(nodes: list[fx.Node]) -> fx.Node:
    """The node whose source names the region: the anchor, else the first with a source."""
    anchors = [node for node in nodes if kind_of(node) == Kind.ANCHOR]
    named = [node for node in nodes if provenance.source(node)]
    return (anchors or named or nodes)[0]


def region_module(
    inputs: list[fx.Node], nodes: list[fx.Node], outputs: list[fx.Node]
) -> fx.GraphModule:
    """A graph module of some nodes; its inputs are placeholders, its output a tuple."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for position, node in enumerate(inputs):
        mapping[node] = graph.placeholder(f"in_{position}")
        mapping[node].meta = {"val": node.meta.get("val")}
    for node in nodes:
        mapping[node] = graph.node_copy(node, lambda old: mapping[old])
        mapping[node].meta = dict(node.meta)
    graph.output(tuple(mapping[node] for node in outputs))
    return fx.GraphModule(torch.nn.Module(), graph)
