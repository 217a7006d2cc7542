"""One streamed run of a program over data that fills statistics; a killed run can go on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from effc.ir.errors import DataError
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program
from effc.ir.provenance import label
from effc.passes.base import PassContext
from effc.passes.calibrate.batches import CalibrationData, Inputs
from effc.passes.calibrate.store import Shelf
from effc.passes.calibrate.value import Layout, ValueStatistics

CHECKPOINT_BATCHES = 16
PROGRESS = "progress"
Found = dict[int, ValueStatistics]


class Recorder(fx.Interpreter):
    """Runs a graph and measures some of its values; activations are freed after their last use.

    Args:
        module: What to run.
        layouts: The values to measure, by position in the graph.
    """

    def __init__(self, module: fx.GraphModule, layouts: dict[int, Layout]) -> None:
        super().__init__(module)
        nodes = list(module.graph.nodes)
        self._layouts = {
            nodes[position]: (position, layout) for position, layout in layouts.items()
        }
        self.found: Found = {}
        self.broken: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; measure its value if it is one of those."""
        value = super().run_node(n)
        if n in self._layouts and value.numel():
            position, layout = self._layouts[n]
            array = np.atleast_1d(value.detach().to(torch.float32).numpy())
            if np.isfinite(array.min()) and np.isfinite(array.max()):
                self.found[position] = ValueStatistics.of(array, layout)
            else:
                self.broken.append(n)
        return value


class NotANumber(fx.Interpreter):
    """Runs a graph and remembers the first node that computes NaN or, failing that, infinity."""

    first: fx.Node | None = None
    first_infinite: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and look at what it computes."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor):
            if self.first is None and bool(torch.isnan(value).any()):
                self.first = n
            if self.first_infinite is None and bool(torch.isinf(value).any()):
                self.first_infinite = n
        return value


@dataclass
class Collection:
    """A run over the data.

    Attributes:
        program: What to run.
        data: What to run it on.
        layouts: The values to measure, by position in the graph of `forward`.
        ctx: For its `progress`.
        shelf: Where to keep progress; None keeps none.
    """

    program: Program
    data: CalibrationData
    layouts: dict[int, Layout]
    ctx: PassContext
    shelf: Shelf | None

    def run(self) -> Found:
        """Run over all batches, going on where a killed run stopped.

        Raises:
            DataError: If the data cannot be used or the model computes NaN on it.
        """
        done, found = self._resume()
        for number, batch in enumerate(self.data, start=1):
            if number <= done:
                continue
            for position, new in self._measure(number, batch).items():
                old = found.get(position)
                found[position] = new if old is None else old.merged(new)
            self.ctx.progress("calibrate", number, self.data.total)
            if self.shelf is not None and number % CHECKPOINT_BATCHES == 0:
                self.shelf.write(PROGRESS, {"run": self._run_key(), "done": number}, pack(found))
        if missing := self.layouts.keys() - found.keys():
            node = list(self.program.forward.graph.nodes)[min(missing)]
            raise DataError(f"calibration data gives {label(node)} no elements")
        return found

    def _resume(self) -> tuple[int, Found]:
        kept = self.shelf.read(PROGRESS) if self.shelf is not None else None
        if kept is None or kept[0].get("run") != self._run_key():
            return 0, {}
        return kept[0]["done"], unpack(kept[1])

    def _run_key(self) -> str:
        parts = (
            f"{at}:{one.is_map}:{one.has_moment}:{'+'.join(map(str, one.windows))}"
            for at, one in self.layouts.items()
        )
        return " ".join(sorted(parts))

    def _measure(self, number: int, batch: Inputs) -> Found:
        module, signature = self.program.forward, self.program.signatures[FORWARD]
        inputs = [batch[spec.name] for spec in signature.inputs]
        recorder = Recorder(module, self.layouts)
        with torch.no_grad():
            outputs = recorder.run(*inputs, enable_io_processing=False)
        if recorder.broken or any(_has_nan(value) for value in outputs):
            raise DataError(
                f"calibration batch {number}: {_blame(module, inputs, recorder.broken)}"
            )
        return recorder.found


def pack(found: Found) -> dict[str, np.ndarray]:
    """Statistics of several values as named arrays."""
    return {
        f"{position}.{name}": array
        for position, value in found.items()
        for name, array in value.arrays().items()
    }


def unpack(arrays: dict[str, np.ndarray]) -> Found:
    """Read back what `pack` gave."""
    grouped: dict[int, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        position, _, name = key.partition(".")
        grouped.setdefault(int(position), {})[name] = array
    return {position: ValueStatistics.from_arrays(part) for position, part in grouped.items()}


def _has_nan(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and bool(torch.isnan(value).any())


def _blame(module: fx.GraphModule, inputs: list[torch.Tensor], broken: list[fx.Node]) -> str:
    """Run once more, looking at every node, to name the first layer that goes wrong."""
    search = NotANumber(module)
    with torch.no_grad():
        search.run(*inputs, enable_io_processing=False)
    node = search.first or search.first_infinite or broken[0]
    what = "NaN" if search.first is not None else "infinite values"
    return f"the model computes {what}, first in {label(node)} ({op_name(node)})"
