"""The kernels of a program with the operands they meet: one run in PyTorch, recorded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from effc.codegen.calls import Call, calls_of, fingerprint
from effc.codegen.executable import storable
from effc.codegen.trial import Case, Memory
from effc.ir.program import Program, attribute
from effc.ir.symbols import evaluate, product
from effc.passes.lower.placement import Placements


@dataclass
class Recorder:
    """Runs a placed program and keeps what some kernels read and compute.

    Attributes:
        program: Lowered.
        method: Which of its methods.
        placements: Where its tensors lie.
        inputs: What to run it on.
        sizes: Values of the symbolic sizes.
    """

    program: Program
    method: str
    placements: Placements
    inputs: Mapping[str, torch.Tensor]
    sizes: dict[str, int]
    _calls: dict[str, Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for call in calls_of(self.placements, self.program.names):
            self._calls.setdefault(fingerprint(call.region), call)

    @property
    def kernels(self) -> dict[str, Call]:
        """The first call of every kernel, by the fingerprint of its region."""
        return dict(self._calls)

    def cases(self, keys: Iterable[str]) -> dict[str, Case]:
        """Some kernels with the operands of their first call, by fingerprint."""
        wanted = {self._calls[key].node: key for key in keys}
        found: dict[str, Case] = {}
        recording = _Recording(self.placements.module, wanted.keys())
        signature = self.program.signatures[self.method]
        with torch.no_grad():
            recording.run(*[self.inputs[spec.name] for spec in signature.inputs])
        for node, key in wanted.items():
            values, results = recording.found[node]
            found[key] = self._case(key, self._calls[key], values, results)
        return found

    def _case(
        self, key: str, call: Call, values: dict[fx.Node, Any], results: tuple[torch.Tensor, ...]
    ) -> Case:
        operands = [self._operand(node, values) for node in call.operands]
        outputs = [self._memory(node, None) for node in call.results]
        numbers = [node.args[1] for node in call.results]
        return Case(
            key,
            call.region,
            tuple(self.program.symbols),
            self.sizes,
            tuple(operands),
            tuple(outputs),
            tuple(results[number] for number in numbers),
        )

    def _operand(self, node: fx.Node, values: dict[fx.Node, Any]) -> Memory:
        """The memory of an operand with its value and border."""
        root = self.placements.places[node].root
        border = self.placements.borders.get(root)
        fill = values.get(border.fill) if border is not None and border.fill is not None else None
        memory = self._memory(node, fill)
        memory.tensor().copy_(values[node])
        return memory

    def _memory(self, node: fx.Node, fill: torch.Tensor | None) -> Memory:
        place, dtype = self.placements.places[node], node.meta["val"].dtype
        count = self._count(place.root)
        content = np.zeros(count * dtype.itemsize, np.uint8)
        if fill is not None:
            codes = torch.from_numpy(content).view(dtype).reshape(fill.numel(), -1)
            codes.copy_(fill.reshape(-1, 1).expand(codes.shape))
        return Memory(
            content,
            self._number(place.offset) * dtype.itemsize,
            tuple(map(self._number, place.shape)),
            tuple(map(self._number, place.strides)),
            dtype,
        )

    def _count(self, root: fx.Node) -> int:
        """Elements of the memory a tensor lies in."""
        if root.op == "get_attr":
            return int(storable(attribute(self.placements.module, root.target)).size)
        sizes = self.placements.sizes
        return self._number(sizes[root] if root in sizes else product(self.program.shape(root)))

    def _number(self, size: Any) -> int:
        return evaluate(size, self.sizes)


class _Recording(fx.Interpreter):
    """Runs a graph and keeps the values around some of its calls."""

    def __init__(self, module: fx.GraphModule, wanted: Iterable[fx.Node]) -> None:
        super().__init__(module)
        self.wanted = set(wanted)
        self.found: dict[fx.Node, tuple[dict[fx.Node, Any], Any]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; keep what it reads and what it computes if that is wanted."""
        result = super().run_node(n)
        if n in self.wanted:
            self.found[n] = ({arg: self.env[arg] for arg in n.all_input_nodes}, result)
        return result
