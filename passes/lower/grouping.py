"""Which operators share a kernel.

Every anchor, reduction and row operator starts a group. Elementwise operators join the group that
computes their operand where the shapes agree and no cycle arises; groups of elementwise operators
join the groups that read them. What is larger than each of its operands, such as the product of a
scale per row and a scale per column, joins only what reads it: storing it would cost more than it
saves. Views, sizes, weights and paddings that become borders stay outside.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import Program
from effc.ir.symbols import Size
from effc.passes.lower.borders import is_border


@dataclass
class Group:
    """Operators that one kernel will compute.

    Attributes:
        role: `anchor`, `rows` (reductions along the last dimension), `reduce` or `elementwise`.
        domain: Shape of what it computes.
        nodes: Its operators.
    """

    role: str
    domain: tuple[Size, ...]
    nodes: set[fx.Node] = field(default_factory=set)

    def inputs(self) -> set[fx.Node]:
        """Nodes outside that the group reads."""
        return {arg for node in self.nodes for arg in node.all_input_nodes} - self.nodes


class Grouping:
    """Assigns the operators of one method to groups.

    Args:
        program: The program.
        module: Graph of the method.
    """

    def __init__(self, program: Program, module: fx.GraphModule) -> None:
        self.program = program
        self.order = {node: number for number, node in enumerate(module.graph.nodes)}
        self.group_of: dict[fx.Node, Group] = {}
        for node in module.graph.nodes:
            if node.op != "call_function" or kind_of(node) in (Kind.VIEW, Kind.SCALAR):
                continue
            if not is_border(module, node):
                self._assign(node)
        self._merge_elementwise()

    @property
    def groups(self) -> list[Group]:
        """All groups, each once, by their first node."""
        seen = {id(group): group for group in self.group_of.values()}
        return sorted(seen.values(), key=lambda group: min(self.order[n] for n in group.nodes))

    def _assign(self, node: fx.Node) -> None:
        kind = kind_of(node)
        is_row = self._is_row_reduction(node)
        is_joining = kind == Kind.ELEMENTWISE and not self._is_expansion(node)
        if is_joining or is_row or op_name(node) in REDUCTIONS:
            for group in self._candidates(node):
                if self._fits(node, group, is_row) and not self._would_cycle(node, group):
                    self._join(node, group)
                    return
        role = "rows" if is_row else ROLES.get(kind, "elementwise")
        role = "alone" if op_name(node) in ALONE else role
        domain = self.program.shape(node.args[0]) if is_row else self._shape(node)
        self._join(node, Group(role, domain))

    def _is_expansion(self, node: fx.Node) -> bool:
        """Whether an elementwise operator's result is larger than each of its operands."""
        operands = [arg for arg in node.all_input_nodes if isinstance(arg.meta["val"], Tensor)]
        shape = self._shape(node)
        return bool(operands) and all(self._shape(arg) != shape for arg in operands)

    def _shape(self, node: fx.Node) -> tuple[Size, ...]:
        value = node.meta["val"]
        if isinstance(value, tuple | list):
            return ()
        return self.program.shape(node)

    def _join(self, node: fx.Node, group: Group) -> None:
        group.nodes.add(node)
        self.group_of[node] = group

    def _candidates(self, node: fx.Node) -> list[Group]:
        """Groups of the operands, latest first, so that their other operands are ready.

        A reduction may also join those of the same tensor.
        """
        operands = [arg for arg in node.all_input_nodes if arg in self.group_of]
        related = [arg for arg in operands if not self._is_expanded(self.group_of[arg])]
        if op_name(node) in REDUCTIONS:
            related += [user for user in node.args[0].users if user in self.group_of]
        latest = sorted(related, key=lambda other: -self._last(self.group_of[other]))
        return list({id(self.group_of[a]): self.group_of[a] for a in latest}.values())

    def _is_expanded(self, group: Group) -> bool:
        """Whether a group only computes something larger than its operands."""
        return group.role == "elementwise" and all(map(self._is_expansion, group.nodes))

    def _last(self, group: Group) -> int:
        return max(self.order[node] for node in group.nodes)

    def _fits(self, node: fx.Node, group: Group, is_row: bool) -> bool:
        if group.role == "alone":
            return False
        if is_row:
            source = node.args[0]
            return group.role == "rows" and self.program.shape(source) == group.domain
        shape = self._shape(node)
        if op_name(node) in REDUCTIONS:
            return any(_same_window(node, other) for other in group.nodes)
        if group.role == "rows":
            return shape in (group.domain, (*group.domain[:-1], 1))
        return shape == group.domain

    def _is_row_reduction(self, node: fx.Node) -> bool:
        """Whether a node reduces exactly the last dimension and keeps it with size 1."""
        if op_name(node) not in REDUCTIONS or len(node.args) < 3 or not node.args[2]:
            return False
        rank, dims = len(self.program.shape(node.args[0])), node.args[1]
        return [dim % rank for dim in dims] == [rank - 1]

    def _would_cycle(self, node: fx.Node, group: Group) -> bool:
        """Whether an operand of the node depends on the group by a way outside it."""
        others = [arg for arg in node.all_input_nodes if self.group_of.get(arg) is not group]
        return any(self._depends(arg, group) for arg in others)

    def _depends(self, node: fx.Node, group: Group) -> bool:
        seen: set[fx.Node] = set()
        stack = [node]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if self.group_of.get(current) is group:
                return True
            stack.extend(self._parents(current))
        return False

    def _parents(self, node: fx.Node) -> Iterator[fx.Node]:
        group = self.group_of.get(node)
        yield from group.inputs() if group else node.all_input_nodes

    def _merge_elementwise(self) -> None:
        """Let groups of elementwise operators join a group of the same domain that reads them."""
        for group in reversed(self.groups):
            if group.role != "elementwise":
                continue
            for reader in self._readers(group):
                if self._can_absorb(reader, group):
                    for node in group.nodes:
                        self._join(node, reader)
                    break

    def _readers(self, group: Group) -> list[Group]:
        users = {user for node in group.nodes for user in node.users if user in self.group_of}
        readers = {id(self.group_of[u]): self.group_of[u] for u in users}
        readers.pop(id(group), None)
        return sorted(readers.values(), key=self._last)

    def _can_absorb(self, reader: Group, group: Group) -> bool:
        if reader.domain != group.domain or not self._can_read_inside(reader, group):
            return False
        if any(op_name(node) == "aten.cat.default" for node in group.nodes):
            return False
        outside = reader.inputs() - group.nodes
        return not any(self._depends(node, group) for node in outside)

    def _can_read_inside(self, reader: Group, group: Group) -> bool:
        """Whether a group's kernel may compute another's values: an anchor's only behind it."""
        if reader.role != "anchor":
            return reader.role in ("rows", "elementwise")
        anchors = [node for node in reader.nodes if kind_of(node) == Kind.ANCHOR]
        is_read_before = any(set(anchor.all_input_nodes) & group.nodes for anchor in anchors)
        return self._is_expanded(group) and not is_read_before


ROLES: dict[Kind | None, str] = {Kind.ANCHOR: "anchor", Kind.REDUCE: "reduce", Kind.ROW: "reduce"}


def _same_window(node: fx.Node, other: fx.Node) -> bool:
    """Whether two reductions read the same tensor over the same dimensions."""
    return op_name(other) in REDUCTIONS and node.args[:3] == other.args[:3]


ALONE = {"aten.cumsum.default", "aten.argmax.default", "aten.argmin.default"}
REDUCTIONS = {"aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default"}
