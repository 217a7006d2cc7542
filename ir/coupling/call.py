"""What the coupling rule of an operator works with: one call, its arguments and their axes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from effc.ir.coupling.atoms import Atoms, Axes, Axis
from effc.ir.coupling.relations import equate, factored
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.ir.symbols import evaluate, size_of

FIRST_SIZE = 23
STREAM, HEAD, HEAD_WIDTH, CONVOLVED, LINEAR = 1, 2, 4, 8, 16


@dataclass
class State:
    """What an analysis knows so far.

    Attributes:
        program: What is analysed.
        atoms: All atoms.
        axes: Per node, those of its tensor, or a list of those of its tensors.
        weights: Axes of each weight tensor, by `weight_key`.
        roles: Of the dimensions of a weight: `out` or `in` of a product, by key and dimension.
        reasons: Texts of the reasons by number; number 0 is none.
        sizes: Value of each symbol the analysis computes with.
        constants: Nodes that no input reaches.
    """

    program: Program
    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    weights: dict[tuple[Any, ...], Axes] = field(default_factory=dict)
    roles: dict[tuple[tuple[Any, ...], int], str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=lambda: [""])
    sizes: dict[str, int] = field(default_factory=dict)
    constants: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sizes = dict(
            zip(self.program.symbols, _primes(len(self.program.symbols)), strict=True)
        )
        self.numbers: dict[str, int] = {"": 0}

    def reason(self, text: str) -> int:
        """The number of a reason."""
        if text not in self.numbers:
            self.numbers[text] = len(self.reasons)
            self.reasons.append(text)
        return self.numbers[text]

    def number(self, size: Any) -> int:
        """The value of a size at the symbols' values here; a size may be a node."""
        value = size.meta["val"] if isinstance(size, fx.Node) else size
        return evaluate(size_of(value, self.program.names), self.sizes)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Sizes of a node's tensor."""
        return tuple(self.number(size) for size in node.meta["val"].shape)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an operator.

    Attributes:
        state: What the analysis knows.
        node: The call.
        arguments: All arguments by their names in the operator's schema, defaults filled in.
    """

    state: State
    node: fx.Node
    arguments: dict[str, Any]

    @classmethod
    def of(cls, state: State, node: fx.Node) -> "Call":
        """Read a call's arguments."""
        return cls(state, node, named_arguments(node))

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def tensors(self) -> list[fx.Node]:
        """The arguments that are tensors, in order."""
        return [node for node in self.node.all_input_nodes if is_tensor(node)]

    @property
    def first(self) -> fx.Node:
        """The first argument."""
        found: Any = self.node.args[0]
        return found

    @property
    def output(self) -> tuple[int, ...]:
        """Sizes of the result."""
        return self.state.shape(self.node)

    @property
    def outputs(self) -> list[tuple[int, ...]]:
        """Sizes of the results of an operator with several."""
        values = self.node.meta["val"]
        return [tuple(self.state.number(size) for size in value.shape) for value in values]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Sizes of an argument."""
        return self.state.shape(node)

    def axes(self, node: fx.Node | None) -> Axes:
        """Axes of an argument; none for an argument that is not given."""
        return () if node is None else tuple(self.state.axes[node])

    def why(self, text: str) -> int:
        """The number of a reason that lies in this call."""
        return self.state.reason(f"{op_name(self.node)} at {label(self.node)}: {text}")

    def equate(self, first: Axis | None, second: Axis | None, text: str = "") -> Axis | None:
        """Let two axes of one size keep the same positions; returns what they are."""
        text = text or "it is paired with positions that must stay"
        equate(self.state.atoms, first, second, self.why(text))
        return first

    def factor(self, axis: Axis | None, outer: int, inner: int) -> tuple[Axis | None, Axis | None]:
        """Write an axis as a product."""
        why = self.why("its blocks differ")
        return factored(self.state.atoms, axis, outer, inner, why)

    def pin(self, axis: Axis | None, text: str) -> None:
        """Record that nothing of an axis can be cut."""
        if axis is not None:
            self.state.atoms.mark(axis, self.why(text))

    def tag(self, axis: Axis | None, tag: int) -> None:
        """Record what an axis is."""
        if axis is not None:
            self.state.atoms.mark(axis, tag=tag)

    def role(self, weight: Any, dimension: int, role: str) -> None:
        """Record what a dimension of a weight is to the product that reads it."""
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            self.state.roles[weight_key(weight), dimension] = role


def is_tensor(node: Any) -> bool:
    """Whether an argument is a node that computes one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def named_arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a call by name, with the schema's defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(at): value for at, value in enumerate(node.args)} | dict(node.kwargs)
    found = {}
    for at, argument in enumerate(schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        given = node.args[at] if at < len(node.args) else default
        found[argument.name] = node.kwargs.get(argument.name, given)
    return found


def weight_key(node: fx.Node) -> tuple[Any, ...]:
    """What is equal for two nodes that read the same tensor."""
    tensor = attribute(node.graph.owning_module, str(node.target))
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = FIRST_SIZE
    while len(found) < count:
        if all(candidate % divisor for divisor in range(2, candidate)):
            found.append(candidate)
        candidate += 1
    return found
