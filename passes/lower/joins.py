"""Concatenation in place: what is joined is written straight into its slice of the result."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import Program
from effc.ir.symbols import Size, simplify
from effc.passes.lower.layout import CONVOLUTIONS, POOLS

CAT = "aten.cat.default"
LINEAR = (
    "aten.linear.default", "effc.linear_integer.default", "effc.linear_half.default",
    "effc.linear_blocks.default", "effc.linear_blocks_integer.default",
    "effc.linear_blocks_half.default",
)  # fmt: skip
GROUPS = -1


@dataclass(frozen=True)
class Slice:
    """Where a part of a concatenation lies in it.

    Attributes:
        whole: The concatenation, in the outer graph.
        dim: The dimension along which it joins.
        start: Positions of the parts before this one.
    """

    whole: fx.Node
    dim: int
    start: Size


def slices_of(
    program: Program, module: fx.GraphModule, can_join: Callable[[fx.Node, fx.Node], bool]
) -> dict[fx.Node, Slice]:
    """The results of regions that can be written into a concatenation.

    A concatenation is in place as a whole or not at all: alone in its region, of results of
    different kernels that can write any strides, none of them part of another one.

    Args:
        program: For sizes.
        module: Regions and views.
        can_join: Whether the layouts of a part and a concatenation allow it.
    """
    found: dict[fx.Node, Slice] = {}
    for call in module.graph.find_nodes(op="call_module"):
        join = _only_cat(module, call)
        if join is None:
            continue
        (whole,) = call.users
        parts = list(call.args)
        is_plain = len(join.args[0]) == len(parts) and not found.keys() & set(parts)
        if not is_plain or not all(_is_free(module, part) for part in parts):
            continue
        if all(can_join(part, whole) for part in parts):
            found |= _slices(program, join, parts, whole)
    return found


def _slices(
    program: Program, join: fx.Node, parts: list[fx.Node], whole: fx.Node
) -> dict[fx.Node, Slice]:
    dim = (join.args[1] if len(join.args) > 1 else 0) % len(program.shape(whole))
    start: Size = 0
    found = {}
    for part in parts:
        found[part] = Slice(whole, dim, start)
        start = simplify(start + program.shape(part)[dim])
    return found


def _only_cat(module: fx.GraphModule, call: fx.Node) -> fx.Node | None:
    """The concatenation of a region that does nothing else."""
    nodes = module.get_submodule(call.target).graph.nodes
    calls = [node for node in nodes if node.op == "call_function"]
    is_alone = len(calls) == 1 and op_name(calls[0]) == CAT and len(call.users) == 1
    return calls[0] if is_alone else None


def _is_free(module: fx.GraphModule, part: fx.Node) -> bool:
    """Whether a node is the result of a kernel that can write any strides."""
    if op_name(part) != "getitem" or part.args[0].op != "call_module":
        return False
    nodes = module.get_submodule(part.args[0].target).graph.nodes
    return all(_writes_anywhere(node) for node in nodes if node.op == "call_function")


def _writes_anywhere(node: fx.Node) -> bool:
    if op_name(node) in CONVOLUTIONS:
        return bool(node.args[GROUPS] == 1)
    return kind_of(node) == Kind.ELEMENTWISE or op_name(node) in (*POOLS, *LINEAR)
