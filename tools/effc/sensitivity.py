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
    high while all other channels drown.

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
        for node in _layers(changed.forward, set(notes), set(recorder.values)):
            name = label(node)
            seen[name] = seen.get(name, 0) + 1
            name = name if seen[name] == 1 else f"{name}#{seen[name]}"
            if name in notes:
                found = sqnr(recorder.values[node.name], alone.layer(node))
                notes[name][OUTPUT] = round(found, 2) if math.isfinite(found) else None


def _layers(module: fx.GraphModule, names: set[str], before: set[str]) -> list[fx.Node]:
    """Products of the given labels that were there before and read something that was not."""
    return [
        node
        for node in module.graph.nodes
        if label(node) in names
        and op_name(node) in KINDS
        and node.name in before
        and any(read.name not in before for read in node.all_input_nodes)
    ]


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
