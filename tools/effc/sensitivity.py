"""How sensitive a layer is: the signal-to-noise ratio its output keeps in its new form."""

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.provenance import label
from effc.passes.bits.layers import KINDS
from effc.passes.instruments import sqnr

OUTPUT = "output_sqnr_db"
RATIOS = ("sqnr_db", "weight_sqnr_db")


def layer_decibel(notes: dict[str, Any]) -> float:
    """A layer's measured ratio, else the lower of those predicted; infinite if nothing is known."""
    for names in ((OUTPUT,), RATIOS):
        found = [notes[name] for name in names if isinstance(notes.get(name), int | float)]
        if found:
            return min(found)
    return math.inf


def measure_layers(
    rows: list[dict[str, Any]], clean: Program, changed: Program, inputs: dict[str, np.ndarray]
) -> None:
    """Add to the notes of every layer what its output keeps if no other layer is changed.

    The ratio of a layer's input says little: one large channel that the weight ignores makes it
    high while all other channels drown. Layers that were cut have no output to compare with.

    Args:
        rows: Report rows of the passes; their notes on layers are added to.
        clean: The program before the passes.
        changed: The program after them.
        inputs: What to run on.
    """
    notes = {name: n for row in rows for name, n in row["notes"].get("layers", {}).items()}
    if not notes:
        return
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in clean.signature.inputs]
    recorder = _Recorder(clean.forward)
    alone = _Alone(changed.forward, recorder.values)
    seen: dict[str, int] = {}
    with torch.no_grad():
        recorder.run(*tensors, enable_io_processing=False)
        known = {node.name: _shape(node) for node in clean.forward.graph.nodes}
        for node in _layers(changed.forward, set(notes), known):
            name = label(node)
            seen[name] = seen.get(name, 0) + 1
            name = name if seen[name] == 1 else f"{name}#{seen[name]}"
            if name in notes:
                found = sqnr(recorder.values[node.name], alone.layer(node))
                notes[name][OUTPUT] = round(found, 2) if math.isfinite(found) else None


def _layers(module: fx.GraphModule, names: set[str], before: dict[str, list[str]]) -> list[fx.Node]:
    """Products of the given labels that were there before and read something that was not.

    Args:
        module: After the passes.
        names: Labels.
        before: Shapes by name of node.
    """
    return [
        node
        for node in module.graph.nodes
        if label(node) in names
        and op_name(node) in KINDS
        and node.name in before
        and any(read.name not in before for read in node.all_input_nodes)
        and _is_whole(node, before)
    ]


def _is_whole(node: fx.Node, before: dict[str, list[str]]) -> bool:
    """Whether a node and all it takes from before the passes have the shapes they had."""
    if before.get(node.name, _shape(node)) != _shape(node):
        return False
    reads = node.all_input_nodes
    return all(
        before[read.name] == _shape(read) if read.name in before else _is_whole(read, before)
        for read in reads
    )


def _shape(node: fx.Node) -> list[str]:
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, torch.Tensor) else []


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every value by its node's name."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep its value."""
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


class _Alone(fx.Interpreter):
    """Runs single nodes of a changed graph; everything from before the change is as it was."""

    def __init__(self, module: fx.GraphModule, known: dict[str, Any]) -> None:
        super().__init__(module)
        self._known = known

    def layer(self, node: fx.Node) -> Any:
        """The value of a node that stands for one in the graph before."""
        for read in node.all_input_nodes:
            self._value(read)
        return self.run_node(node)

    def _value(self, node: fx.Node) -> None:
        if node in self.env:
            return
        is_known = node.name in self._known
        self.env[node] = self._known[node.name] if is_known else self.layer(node)
