"""Weights that an interrupted run has found already."""

import hashlib
from dataclasses import dataclass

import numpy as np

from effc.ir.program import Program
from effc.ir.text import fingerprint
from effc.passes.base import Pass, PassContext
from effc.passes.calibrate.batches import CalibrationData
from effc.passes.calibrate.store import Shelf
from effc.passes.registry import pass_text
from effc.passes.sparsify.job import Sparse


@dataclass(frozen=True)
class Solved:
    """Results of layers on disk; without a shelf nothing is kept.

    Attributes:
        shelf: Where they are, keyed by program, data, options and seed.
    """

    shelf: Shelf | None

    @classmethod
    def of(cls, options: Pass, program: Program, ctx: PassContext) -> "Solved":
        """The results of such a run."""
        if ctx.store is None or ctx.calibration is None:
            return cls(None)
        data = CalibrationData(program, ctx.calibration).fingerprint()
        parts = (fingerprint(program), data, pass_text(options), ctx.seed, ctx.rules, ctx.exclude,
                 ctx.kept)  # fmt: skip
        key = _digest(repr(parts))
        return cls(Shelf(ctx.store / options.name / key, key))

    def get(self, layer: str) -> Sparse | None:
        """What a layer got, if it is there."""
        entry = self.shelf.read(_digest(layer)) if self.shelf is not None else None
        return Sparse(entry[1]["weight"], entry[1]["mask"]) if entry is not None else None

    def put(self, layer: str, found: Sparse) -> None:
        """Keep what a layer got."""
        if self.shelf is not None:
            arrays = {"weight": found.weight, "mask": found.mask.astype(np.bool_)}
            self.shelf.write(_digest(layer), {"layer": layer}, arrays)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
