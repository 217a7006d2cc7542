"""What a program costs once it is cut, without cutting it."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from effc.ir.cost import node_cost, typical_sizes
from effc.ir.coupling.analysis import Coupling
from effc.ir.coupling.atoms import Axis
from effc.ir.coupling.kept import Kept
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import FORWARD, Program

BIAS_FIRST = ("aten.addmm.default", "aten.baddbmm.default")
CONVOLUTIONS = ("aten.conv", "aten.convolution")


@dataclass(eq=False)
class CutCost:
    """Multiply-adds and parameters of a program with parts cut.

    Multiply-adds are those of `forward` at its typical sizes.

    Attributes:
        program: The whole program.
        coupling: Of the program.
    """

    program: Program
    coupling: Coupling
    _products: list[tuple[int, list[Axis | None]]] = field(init=False)

    def __post_init__(self) -> None:
        """Read off every product once."""
        sizes = typical_sizes(self.program)
        self._products = [
            (node_cost(self.program, node).at(sizes)["macs"], loops_of(self.coupling, node))
            for node in self.program.methods[FORWARD].graph.nodes
            if kind_of(node) == Kind.ANCHOR
        ]

    def macs(self, cut: NDArray[np.int64]) -> float:
        """Multiply-adds that are left when atoms go."""
        kept = Kept(self.coupling, cut)
        return sum(
            macs * math.prod(_share(kept, axis) for axis in axes) for macs, axes in self._products
        )

    def parameters(self, cut: NDArray[np.int64]) -> int:
        """Elements of weights that are left when atoms go."""
        kept, total = Kept(self.coupling, cut), 0.0
        for key, axes in self.coupling.state.weights.items():
            total += math.prod(key[1]) * math.prod(_share(kept, axis) for axis in axes)
        return round(total)

    def of(self, resource: str, cut: NDArray[np.int64]) -> float:
        """`macs` or `parameters`."""
        return self.macs(cut) if resource == "macs" else float(self.parameters(cut))


def _share(kept: Kept, axis: Axis | None) -> float:
    rows = kept.rows(axis)
    return 1.0 if rows is None else float(rows.mean())


def loops_of(coupling: Coupling, node: fx.Node) -> list[Axis | None]:
    """The axes a product loops over: those of its result and the one it sums over."""
    axes: dict[Any, Any] = coupling.state.axes
    name, args = op_name(node), node.args
    if name.startswith(CONVOLUTIONS):
        transposed = "conv_transpose" in name or (name.startswith("aten.convolution") and args[6])
        weight = axes[args[1]]
        return [*axes[node], axes[args[0]][1] if transposed else weight[1]]
    summed = axes[args[1 if name in BIAS_FIRST else 0]][-1]
    return [*axes[node], summed]
