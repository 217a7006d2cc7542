"""A walk through a program over all calibration data at once, in which weights are rounded.

Every layer is rounded for what it will really read: the values that the layers before it, already
rounded, compute. All batches go through one node after the other, so that this takes a single run.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from effc.ir.errors import DataError
from effc.ir.program import FORWARD, Program
from effc.ir.provenance import label
from effc.passes.bits.rounding.grid import Matrix
from effc.passes.calibrate.batches import CalibrationData

Values = dict[fx.Node, Any]
Found = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a layer reads, over all data, in float and after the layers before it were rounded.

    Attributes:
        moment: X^T X of what it reads now, float64 [features, features].
        mixed: X_float^T X of the same, float64; `moment` where nothing before it was rounded.
        now: What it reads now, a tensor [..., features] per batch.
        exact: The same in float.
    """

    moment: Matrix
    mixed: Matrix
    now: tuple[Tensor, ...]
    exact: tuple[Tensor, ...]

    def means(self) -> tuple[Matrix, Matrix]:
        """Mean of what it reads in float, and of what it reads now: float64 [features] each."""
        found = []
        for batches in (self.exact, self.now):
            flat = [batch.reshape(-1, batch.shape[-1]) for batch in batches]
            total = torch.stack([one.double().sum(0) for one in flat]).sum(0)
            found.append(np.asarray((total / sum(map(len, flat))).numpy()))
        return found[0], found[1]

    def in_float(self) -> "Inputs":
        """What the layer reads in the model in float."""
        exact = gram(self.exact, self.exact)
        return Inputs(exact, exact, self.exact, self.exact)

    def target(self, weight: Matrix, damping: float) -> Matrix:
        """The weight that makes the most of rounded inputs: argmin |W X_float - W' X|^2, damped.

        Args:
            weight: float64 [rows, features].
            damping: Share of the mean diagonal added to it.
        """
        mean = float(np.diag(self.moment).mean()) or 1.0
        damped = self.moment + damping * mean * np.eye(len(self.moment))
        change = np.linalg.solve(damped, (self.mixed - self.moment).T).T
        return np.asarray(weight + weight @ change)


@dataclass
class Walk:
    """One pass over a method `forward`.

    Attributes:
        program: What to walk through.
        data: Batches by input name.
        is_paired: Whether to keep the values in float, too; without, layers are told that what they
            read now is exact.
    """

    program: Program
    data: Iterable[Any]
    is_paired: bool = True
    _now: list[Values] = field(default_factory=list)
    _exact: list[Values] = field(default_factory=list)
    _known: dict[fx.Node, Inputs] = field(default_factory=dict)

    def run(self, wanted: dict[fx.Node, Callable[[Inputs], Found]]) -> None:
        """Go through all nodes; call what is wanted at a linear, and go on with what it returns.

        Args:
            wanted: By linear, a function of its inputs that gives its new weight [out, in] and
                bias [out] or None.

        Raises:
            DataError: If the data cannot be used, or a layer reads NaN or infinite values on it.
        """
        module, signature = self.program.forward, self.program.signatures[FORWARD]
        last = last_uses(module.graph)
        for batch in CalibrationData(self.program, self.data):
            given = dict(zip(placeholders(module.graph), signature.inputs, strict=True))
            self._now.append({node: batch[spec.name] for node, spec in given.items()})
        if self.is_paired:
            self._exact = [dict(values) for values in self._now]
        runner = fx.Interpreter(module)
        with torch.no_grad():
            for node in module.graph.nodes:
                if node.op in ("placeholder", "output"):
                    continue
                self._step(runner, node, wanted)
                for gone in last.get(node, ()):
                    for values in (*self._now, *self._exact):
                        values.pop(gone, None)
                    self._known.pop(gone, None)

    def _step(
        self, runner: fx.Interpreter, node: fx.Node,
        wanted: dict[fx.Node, Callable[[Inputs], Found]],
    ) -> None:  # fmt: skip
        found = wanted[node](self._inputs(node)) if node in wanted else None
        for values in self._exact:
            values[node] = evaluated(runner, node, values)
        for values in self._now:
            if found is None:
                values[node] = evaluated(runner, node, values)
            else:
                values[node] = torch.nn.functional.linear(values[node.args[0]], *found)

    def _inputs(self, node: fx.Node) -> Inputs:
        source = node.args[0]
        if source not in self._known:
            now = tuple(values[source] for values in self._now)
            exact = tuple(values[source] for values in self._exact) or now
            moment = gram(now, now)
            if not np.isfinite(moment).all():
                raise DataError(f"{label(node)} reads NaN or infinite values on calibration data")
            mixed = gram(exact, now) if self._exact else moment
            self._known[source] = Inputs(moment, mixed, now, exact)
        return self._known[source]


def gram(left: Iterable[Tensor], right: Iterable[Tensor]) -> Matrix:
    """Sum over batches of X^T Y: float64 [features, features]; each batch's product is float32."""
    total: Any = 0.0
    for x, y in zip(left, right, strict=True):
        flat = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        total = total + (flat[0].T @ flat[1]).double()
    return np.asarray(total.numpy())


def evaluated(runner: fx.Interpreter, node: fx.Node, values: Values) -> Any:
    """What a node computes from values."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda one: values[one])
    found: Any = getattr(runner, node.op)(node.target, args, kwargs)
    return found


def placeholders(graph: fx.Graph) -> Iterator[fx.Node]:
    """The inputs of a graph, in order."""
    return iter(graph.find_nodes(op="placeholder"))


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """By node, the nodes nobody reads after it."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for one in (node, *node.all_input_nodes):
            if one not in seen:
                seen.add(one)
                found.setdefault(node, []).append(one)
    return found
