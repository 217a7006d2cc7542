"""What metrics look at: a program, its parts, a sample of data, statistics, what was measured."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch

from effc.ir.errors import DataError, ModelError
from effc.ir.program import FORWARD, Program
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.divergence import Divergence
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.running import Exchanged, Values, restored, with_weights
from effc.passes.bits.weights import is_finite
from effc.passes.calibrate.batches import CalibrationData
from effc.passes.calibrate.statistics import Statistics, statistics_of
from effc.passes.calibrate.store import Shelf

NO_DATA = "this metric needs calibration data; give it with --calib"
SAMPLE_NBYTES, LEAST_SAMPLE_NBYTES, SAMPLE_SHARE = 128 << 20, 32 << 20, 0.25
SAMPLE_ROWS = 64


@dataclass(eq=False)
class Batch:
    """One batch of the sample.

    Attributes:
        inputs: In the order of the signature.
        values: What the program in float computes at every node, where it is kept.
        outputs: Its outputs.
    """

    inputs: tuple[torch.Tensor, ...]
    values: Values
    outputs: list[torch.Tensor]


@dataclass(eq=False)
class Study:
    """A program under study; what several metrics need is computed once, when first asked for.

    Attributes:
        program: Its method `forward` is run in float.
        parts: Whose sensitivity is in question.
        ctx: Calibration data, store, seed and progress.
    """

    program: Program
    parts: Sequence[Part]
    ctx: PassContext
    _memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no metric can judge.

        Raises:
            ModelError: If a weight holds NaN or infinite values.
        """
        for part in self.parts:
            if not is_finite(part.weight):
                raise ModelError(
                    f"the weight of {part.name} holds NaN or infinite values; it has no format"
                )

    @cached_property
    def data(self) -> CalibrationData:
        """The calibration data.

        Raises:
            DataError: If there is none.
        """
        if self.ctx.calibration is None:
            raise DataError(NO_DATA)
        return CalibrationData(self.program, self.ctx.calibration)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of what the parts multiply, with second moments."""
        read = {layer.value.name for part in self.parts for layer in part.products}
        if self.ctx.calibration is None:
            raise DataError(NO_DATA)
        return statistics_of(self.program, self.ctx, read, moments=True)

    @cached_property
    def divergence(self) -> Divergence:
        """How outputs are compared."""
        return Divergence.of(self.program.forward)

    @cached_property
    def sample(self) -> list[Batch]:
        """The first batches of the data with all their values.

        At least one, and no more than take `SAMPLE_SHARE` of the memory of the model (with bounds)
        or make `SAMPLE_ROWS` rows.

        Raises:
            DataError: If the program computes NaN or infinite values on them.
        """
        taken: list[Batch] = []
        share = int(SAMPLE_SHARE * self.program.weight_nbytes)
        free = min(SAMPLE_NBYTES, max(LEAST_SAMPLE_NBYTES, share))
        rows = 0
        for number, inputs in enumerate(self.data, start=1):
            batch = self._batch(number, [inputs[s.name] for s in self.program.signature.inputs])
            nbytes = _nbytes(batch)
            if taken and nbytes > free:
                break
            taken.append(batch)
            free, rows = free - nbytes, rows + _rows(batch)
            if rows >= SAMPLE_ROWS:
                break
        return taken

    @cached_property
    def held_out(self) -> list[Batch]:
        """As many batches after the sample as it has, without values on the way.

        The sample itself where the data ends with it: then nothing is left to hold out.
        """
        taken, names = len(self.sample), [spec.name for spec in self.program.signature.inputs]
        after = enumerate(islice(self.data, taken, 2 * taken), start=taken + 1)
        found = [
            self._batch(number, [inputs[name] for name in names], keep=False)
            for number, inputs in after
        ]
        return found or self.sample

    def _batch(self, number: int, inputs: list[torch.Tensor], *, keep: bool = True) -> Batch:
        runner = Exchanged(self.program.forward, {}, keep=keep)
        with torch.no_grad():
            outputs = runner.outputs(inputs)
        if any(v.is_floating_point() and not bool(torch.isfinite(v).all()) for v in outputs):
            raise DataError(
                f"calibration batch {number}: the model computes NaN or infinite values"
            )
        values = {node: value for node, value in runner.env.items() if node.op != "get_attr"}
        return Batch(tuple(inputs), values if keep else {}, outputs)

    def outputs_of(self, forms: dict[Part, Form]) -> list[list[torch.Tensor]]:
        """Outputs on the sample with some parts in other formats."""
        module, weights = self.program.forward, restored(forms)
        return [
            with_weights(module, forms, weights, batch.inputs, batch.values)
            for batch in self.sample
        ]

    def damage(self, forms: dict[Part, Form]) -> float:
        """Measured divergence of the outputs on the sample; infinite where they are no numbers."""
        return self.divergence_on(self.sample, self.outputs_of(forms))

    def divergence_on(
        self, batches: Sequence[Batch], found: Sequence[Sequence[torch.Tensor]]
    ) -> float:
        """Mean divergence of outputs on some batches; infinite where they are no numbers."""
        measured = [
            float(self.divergence(batch.outputs, outputs))
            for batch, outputs in zip(batches, found, strict=True)
        ]
        mean = float(np.mean(measured))
        return max(mean, 0.0) if np.isfinite(mean) else float("inf")

    def generator(self, name: str) -> torch.Generator:
        """Random numbers of PyTorch that depend on the seed and a name only."""
        seed = int(self.ctx.rng(name).integers(0, 2**63 - 1))
        return torch.Generator().manual_seed(seed)

    @cached_property
    def shelf(self) -> Shelf | None:
        """Where measured sensitivities are kept; None if nothing is."""
        if self.ctx.store is None:
            return None
        data = "" if self.ctx.calibration is None else self.data.fingerprint()
        key = f"{fingerprint(self.program)}-{data}-{self.ctx.seed}-{FORWARD}"
        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return Shelf(self.ctx.store / "sensitivity" / name, key)

    def recalled(self, name: str) -> dict[str, Any]:
        """What `remember` kept under a name in this study or an earlier one of the same parts."""
        if name not in self._memory and self.shelf is not None:
            entry = self.shelf.read(self._place(name))
            self._memory[name] = entry[0] if entry is not None else {}
        return dict(self._memory.get(name, {}))

    def remember(self, name: str, content: dict[str, Any]) -> None:
        """Keep plain data under a name."""
        self._memory[name] = dict(content)
        if self.shelf is not None:
            self.shelf.write(self._place(name), content, {})

    def recalled_arrays(self, name: str) -> dict[str, np.ndarray]:
        """What `remember_arrays` kept under a name; empty if nothing is kept."""
        entry = self.shelf.read(self._place(name)) if self.shelf is not None else None
        return dict(entry[1]) if entry is not None else {}

    def remember_arrays(self, name: str, content: dict[str, np.ndarray]) -> None:
        """Keep arrays under a name, where there is a store."""
        if self.shelf is not None:
            self.shelf.write(self._place(name), {}, content)

    def _place(self, name: str) -> str:
        text = f"{name} of {' '.join(part.name for part in self.parts)}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _nbytes(batch: Batch) -> int:
    """Memory of the values of a batch; views take none."""
    values = [value for value in batch.values.values() if isinstance(value, torch.Tensor)]
    held = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in values}
    return sum(storage.nbytes() for storage in held.values())


def _rows(batch: Batch) -> int:
    first = batch.inputs[0]
    return first.shape[0] if first.dim() else 1
