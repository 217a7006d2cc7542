"""Residual branches: sums of a value and of what layers compute from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import FORWARD, Program
from effc.ir.provenance import label

ADD = "aten.add.Tensor"


@dataclass(frozen=True)
class Branch:
    """`total = through + beside`, where layers with weights compute `beside` from `through`."""

    total: fx.Node
    through: fx.Node
    beside: fx.Node


@dataclass(frozen=True)
class Block:
    """Branches that go together: those of one module, one after another.

    Attributes:
        name: Of the module.
        branches: In order.
    """

    name: str
    branches: tuple[Branch, ...]

    @property
    def before(self) -> fx.Node:
        """What the block reads."""
        return self.branches[0].through

    @property
    def after(self) -> fx.Node:
        """What it computes."""
        return self.branches[-1].total


def blocks_of(program: Program, is_whole: bool) -> list[Block]:
    """All blocks of `forward` in order.

    Args:
        program: Where to look.
        is_whole: Whether branches that one module adds up are one block, as attention and
            feed-forward of a layer; else each is one, named after the layer it ends with.
    """
    found: dict[str, list[Branch]] = {}
    for branch in branches_of(program):
        name = label(branch.total) if is_whole else _branch_name(branch)
        while not is_whole and name in found:
            name += "'"
        found.setdefault(name, []).append(branch)
    return [Block(name, tuple(branches)) for name, branches in found.items()]


def branches_of(program: Program) -> Iterator[Branch]:
    """All residual branches of `forward` in order."""
    nodes = list(program.methods[FORWARD].graph.nodes)
    above = _above(nodes)
    place = {node: at for at, node in enumerate(nodes)}
    heavy = sum(1 << place[node] for node in nodes if _has_weight(node))
    for node in nodes:
        if op_name(node) != ADD or node.kwargs.get("alpha", 1) != 1:
            continue
        for through, beside in (node.args[:2], node.args[1::-1]):
            if not isinstance(through, fx.Node) or not isinstance(beside, fx.Node):
                continue
            is_residual = (above[place[beside]] >> place[through]) & 1
            between = above[place[beside]] & ~above[place[through]] & _below(above, place[through])
            same = through.meta["val"].shape == node.meta["val"].shape
            if is_residual and same and between & heavy:
                yield Branch(node, through, beside)
                break


def _above(nodes: Sequence[fx.Node]) -> list[int]:
    """For every node a bit set of itself and all it is computed from."""
    place = {node: at for at, node in enumerate(nodes)}
    found: list[int] = []
    for at, node in enumerate(nodes):
        bits = 1 << at
        for source in node.all_input_nodes:
            bits |= found[place[source]]
        found.append(bits)
    return found


def _below(above: Sequence[int], place: int) -> int:
    """A bit set of all that is computed from a node."""
    return sum(1 << at for at, bits in enumerate(above) if at > place and (bits >> place) & 1)


def _has_weight(node: fx.Node) -> bool:
    is_product = kind_of(node) == Kind.ANCHOR
    return is_product and any(source.op == "get_attr" for source in node.all_input_nodes)


def _branch_name(branch: Branch) -> str:
    """The layer that computes the branch last."""
    node = branch.beside
    while not _has_weight(node):
        computed = [one for one in node.all_input_nodes if one.op == "call_function"]
        if not computed:
            return label(branch.beside)
        node = computed[0]
    return label(node)
