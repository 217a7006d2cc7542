"""What recovery trains and is judged on: the calibration data, reshuffled in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effc.ir.program import Program
from effc.passes.calibrate.batches import CalibrationData, Inputs

POOL_NBYTES = 256 << 20
HELD_NBYTES = 16 << 20
HELD_EVERY = 8
Batch = tuple[Tensor, ...]


@dataclass
class Batches:
    """Batches for training, drawn anew in every epoch, and some that are never trained on.

    Where the first dimension of every input is one symbol, rows are mixed freely into batches of
    `rows`; else the batches stay as the user made them. Of each batch the last eighth of its rows
    is held out or, where rows cannot be mixed, every eighth batch. No more than `POOL_NBYTES` of
    inputs are in memory at once, besides those held out.

    Attributes:
        program: Whose inputs they are.
        data: The calibration data.
        rows: Rows of a batch.
        more: Of a batch's number and inputs, what belongs to its rows besides.
    """

    program: Program
    data: CalibrationData
    rows: int
    more: Callable[[int, Batch], Batch] = lambda number, batch: ()

    @property
    def is_mixed(self) -> bool:
        """Whether rows of different batches can be put together."""
        firsts = {spec.shape[0] if spec.shape else None for spec in self.program.signature.inputs}
        return len(firsts) == 1 and not isinstance(next(iter(firsts)), int | None)

    def held(self) -> list[Batch]:
        """What is never trained on; the first batch where there is too little data."""
        found: list[Batch] = []
        first: Batch | None = None
        nbytes = 0
        for number, batch in enumerate(self._all()):
            first = first or batch
            held = self._split(number, batch)[1]
            if held is None:
                continue
            found.append(held)
            nbytes += _nbytes(held)
            if nbytes >= HELD_NBYTES:
                break
        return found or [one for one in (first,) if one is not None]

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """All training batches once, in a random order."""
        pool: list[Batch] = []
        nbytes = 0
        for number, batch in enumerate(self._all()):
            kept = self._split(number, batch)[0]
            if kept is None:
                continue
            pool.append(kept)
            nbytes += _nbytes(kept)
            if nbytes >= POOL_NBYTES:
                yield from self._mixed(pool, rng)
                pool, nbytes = [], 0
        yield from self._mixed(pool, rng)

    def _all(self) -> Iterator[Batch]:
        names = [spec.name for spec in self.program.signature.inputs]
        inputs: Inputs
        for number, inputs in enumerate(self.data):
            batch = tuple(inputs[name] for name in names)
            yield (*batch, *self.more(number, batch))

    def _split(self, number: int, batch: Batch) -> tuple[Batch | None, Batch | None]:
        if not self.is_mixed:
            is_held = number % HELD_EVERY == HELD_EVERY - 1
            return (None, batch) if is_held else (batch, None)
        count = len(batch[0])
        kept = count - count // HELD_EVERY
        held = tuple(one[kept:] for one in batch) if kept < count else None
        return tuple(one[:kept] for one in batch), held

    def _mixed(self, pool: list[Batch], rng: np.random.Generator) -> Iterator[Batch]:
        if not self.is_mixed:
            yield from (pool[number] for number in rng.permutation(len(pool)))
            return
        for same in _by_shape(pool):
            joined = tuple(torch.cat(parts) for parts in zip(*same, strict=True))
            order = torch.from_numpy(rng.permutation(len(joined[0])))
            for first in range(0, len(order), self.rows):
                chosen = order[first : first + self.rows]
                yield tuple(one[chosen] for one in joined)


def _by_shape(pool: list[Batch]) -> list[list[Batch]]:
    """Batches that differ in their number of rows only, together."""
    found: dict[tuple[torch.Size, ...], list[Batch]] = {}
    for batch in pool:
        found.setdefault(tuple(one.shape[1:] for one in batch), []).append(batch)
    return list(found.values())


def _nbytes(batch: Batch) -> int:
    return sum(one.numel() * one.element_size() for one in batch)
