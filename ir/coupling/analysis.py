"""Coupling analysis: the axes of every value of a program, from the op table alone."""

from dataclasses import dataclass
from typing import Any

from torch import fx

from effc.ir.coupling.atoms import Atoms, Axes
from effc.ir.coupling.call import Call, State, is_tensor, weight_key
from effc.ir.coupling.movement import fixed, nothing
from effc.ir.coupling.recurrent import RECURRENT
from effc.ir.opspec import Kind, op_name, spec_of
from effc.ir.program import Program, attribute


@dataclass(frozen=True, eq=False)
class Coupling:
    """What an analysis found. Axes are over `atoms`; resolve them before use.

    Attributes:
        state: Axes of nodes and weights, reasons, roles.
        names: Names of each weight tensor, by its key; tied ones have several.
    """

    state: State
    names: dict[tuple[Any, ...], list[str]]

    @property
    def atoms(self) -> Atoms:
        """All atoms of the program."""
        return self.state.atoms


def analyse(program: Program) -> Coupling:
    """Find which positions of which tensors of a program can only be cut together.

    Symbolic sizes are given prime numbers, by which the dimensions that a view multiplies out are
    told apart. Cost grows with the number of nodes and the widths of their channels.

    Args:
        program: All of its methods are read; it stays as it is.
    """
    state = State(program)
    names: dict[tuple[Any, ...], list[str]] = {}
    for method, module in program.methods.items():
        for node in module.graph.nodes:
            state.axes[node] = _axes(state, node, names)
            if node.op == "get_attr" or (
                node.op == "call_function"
                and all(arg in state.constants for arg in node.all_input_nodes)
            ):
                state.constants.add(node)
        _pin_outputs(state, module.graph.output_node(), program.signatures[method].outputs)
    return Coupling(state, names)


def _axes(state: State, node: fx.Node, names: dict[tuple[Any, ...], list[str]]) -> Any:
    if node.op == "get_attr":
        key = weight_key(node)
        known = names.setdefault(key, [])
        if node.target not in known:
            known.append(str(node.target))
        if key not in state.weights:
            state.weights[key] = _weight_axes(state, node)
        return state.weights[key]
    if node.op != "call_function":
        return nothing(node)
    spec = spec_of(node)
    if spec is not None and spec.kind == Kind.SCALAR:
        return ()
    call = Call.of(state, node)
    unlisted = RECURRENT.get(op_name(node), fixed)
    rule = spec.couple if spec is not None and spec.couple is not None else unlisted
    return rule(call)


def _weight_axes(state: State, node: fx.Node) -> Axes:
    shape = attribute(node.graph.owning_module, str(node.target)).shape
    return tuple(state.atoms.axis(size) if size > 1 else None for size in shape)


def _pin_outputs(state: State, output: fx.Node, specs: Any) -> None:
    results: Any = output.args[0]
    for node, spec in zip(results, specs, strict=True):
        if is_tensor(node):
            for axis in state.axes[node]:
                state.atoms.mark(axis, state.reason(f"it reaches the output {spec.name}"))
