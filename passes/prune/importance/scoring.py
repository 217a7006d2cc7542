"""What an importance works with: the program, its coupling, data, and sums per atom."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from effc.ir.coupling.analysis import Coupling
from effc.ir.coupling.atoms import Axis
from effc.ir.coupling.call import weight_key
from effc.ir.coupling.groups import Group, Key, Site, resolved_weights
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, attribute
from effc.passes.base import PassContext
from effc.passes.bits.metrics.running import Exchanged
from effc.passes.bits.metrics.study import Study
from effc.passes.calibrate.statistics import CONVOLUTION, LINEAR, Statistics, statistics_of

Vector = NDArray[np.float64]
DRAWS = 4


class Importance(Protocol):
    """Scores the atoms of groups; what scores least goes first."""

    def scores(self, study: "Scoring", group: Group) -> Vector:
        """At least 0, float64 [group.size]."""


@dataclass(eq=False)
class Scoring:
    """A program to be scored.

    Attributes:
        program: The program.
        coupling: Of the program.
        ctx: Calibration data, seed, store.
        has_moments: Whether statistics hold second moments.
    """

    program: Program
    coupling: Coupling
    ctx: PassContext
    has_moments: bool = False

    @cached_property
    def axes(self) -> dict[Key, tuple[Axis | None, ...]]:
        """Resolved axes of every weight."""
        return resolved_weights(self.coupling)

    @cached_property
    def weights(self) -> dict[Key, torch.Tensor]:
        """Every weight tensor once."""
        found = {}
        for module in self.program.methods.values():
            for node in module.graph.find_nodes(op="get_attr"):
                found[weight_key(node)] = attribute(module, str(node.target)).detach()
        return found

    @cached_property
    def readers(self) -> dict[Key, list[fx.Node]]:
        """The calls of `forward` that read each weight."""
        found: dict[Key, list[fx.Node]] = {}
        for node in self.program.methods[FORWARD].graph.find_nodes(op="get_attr"):
            found.setdefault(weight_key(node), []).extend(node.users)
        return found

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of what every linear and convolution reads.

        Raises:
            DataError: If there is no calibration data.
        """
        names = {
            node.args[0].name
            for node in self.program.forward.graph.nodes
            if op_name(node) in (LINEAR, CONVOLUTION)
        }
        return statistics_of(self.program, self.ctx, names, moments=self.has_moments)

    @cached_property
    def slopes(self) -> list[dict[tuple[Key, int], Vector]]:
        """Weight times gradient, summed over all dimensions of each weight but one, per draw.

        Gradients are those of `Divergence.score`.

        Raises:
            DataError: If there is no calibration data.
        """
        study = Study(self.program, (), self.ctx)
        draw = study.generator("prune")
        nodes = self.program.forward.graph.find_nodes(op="get_attr")
        leaves = {
            key: weight.clone().requires_grad_()
            for key, weight in self.weights.items()
            if weight.is_floating_point()
        }
        known = {node: leaves[key] for node in nodes if (key := weight_key(node)) in leaves}
        found = []
        for batch in study.sample:
            with torch.enable_grad():
                outputs = Exchanged(self.program.forward, known).outputs(batch.inputs)
                for left in range(DRAWS - 1, -1, -1):
                    score = study.divergence.score(batch.outputs, outputs, draw)
                    made = torch.autograd.grad(
                        score, list(leaves.values()), retain_graph=left > 0, allow_unused=True
                    )
                    found.append(self._along(dict(zip(leaves, made, strict=True))))
        return found

    def _along(self, gradients: dict[Key, torch.Tensor | None]) -> dict[tuple[Key, int], Vector]:
        """Sums of weight times gradient, by weight and dimension."""
        found = {}
        for key, gradient in gradients.items():
            products = self.weights[key] * (0 if gradient is None else gradient)
            for dimension in range(products.dim()):
                found[key, dimension] = _summed(products, dimension)
        return found

    def products(self, group: Group, role: str = "") -> list[Site]:
        """The sites of a group in weights of products: with a role, those that have it."""
        sites = [site for site in group.sites if site.role in ("in", "out")]
        return [site for site in sites if role in ("", site.role)] or sites or list(group.sites)

    def per_position(self, site: Site, values: torch.Tensor) -> Vector:
        """Sums of a tensor like the site's weight over all dimensions but the site's."""
        return _summed(values, site.dimension)

    def per_atom(self, group: Group, site: Site, positions: Vector) -> Vector:
        """Sums over the positions each atom stands for."""
        axis: Any = self.axes[site.key][site.dimension]
        places = group.places(axis)
        chosen = places >= 0
        found = np.bincount(places[chosen], positions[chosen], group.size)
        return found.astype(np.float64)


def _summed(values: torch.Tensor, dimension: int) -> Vector:
    """Sums over all dimensions but one, float64."""
    others = [at for at in range(values.dim()) if at != dimension]
    return np.asarray(values.double().sum(others) if others else values.double())
