"""The program before compression, which the student is to agree with."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from effc.ir.program import Program
from effc.passes.bits.metrics.running import Values
from effc.passes.calibrate.store import Shelf
from effc.passes.recover.batches import Batch
from effc.passes.recover.losses import OutputLoss
from effc.passes.recover.points import Point, values_at


@dataclass
class Teacher:
    """Computes, or remembers, what a student should answer.

    Attributes:
        program: The original.
        loss: How outputs are compared.
        points: Where both programs are compared inside.
        count: How many likelihoods of an answer are kept (TinyViT, K. Wu et al., 2022,
            arXiv 2207.10666); 0 computes outputs anew in every step.
        shelf: Where they are kept; in memory if None.
    """

    program: Program
    loss: OutputLoss
    points: list[Point]
    count: int
    shelf: Shelf | None
    _memory: dict[int, Batch] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return len(self.program.signature.inputs)

    def columns(self, number: int, batch: Batch) -> Batch:
        """What is kept of the answers to a batch; nothing where nothing is to be kept."""
        if not self.count:
            return ()
        name = f"answers-{number}"
        found = self.shelf.read(name) if self.shelf else None
        if found is not None:
            return tuple(torch.from_numpy(found[1][str(i)]) for i in range(len(found[1])))
        if number not in self._memory:
            outputs, _ = values_at(self.program.forward, set(), batch)
            kept = tuple(self.loss.kept(outputs, self.count))
            if self.shelf is None:
                self._memory[number] = kept
                return kept
            arrays: dict[str, np.ndarray] = {str(i): one.numpy() for i, one in enumerate(kept)}
            self.shelf.write(name, {}, arrays)
            return kept
        return self._memory[number]

    def answers(self, batch: Batch) -> tuple[list[Tensor] | None, Values]:
        """Outputs, None where they are kept with the batch, and the values at the points."""
        if self.count and not self.points:
            return None, {}
        nodes = {point.teacher for point in self.points}
        outputs, values = values_at(self.program.forward, nodes, batch[: self.inputs])
        return (None if self.count else outputs), values

    def compare(self, batch: Batch, outputs: list[Tensor] | None, student: list[Tensor]) -> Tensor:
        """The loss of a student's outputs."""
        if outputs is None:
            return self.loss.sparse(batch[self.inputs :], student)
        return self.loss(outputs, student)
