"""What builds turned out to be, kept on disk, so that a search goes on where it was stopped.

A build follows from its program, the target and the versions of the generators; its quality from
the evaluation data and the metric, too. Builds are found again by all of these. Metrics of the
user's own, whose code may change, are not kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effc.backends.tuning.place import place_of
from effc.ir import options
from effc.ir.program import Program
from effc.ir.text import fingerprint
from effc.metrics import BUILT_IN
from effc.passes.calibrate.store import Shelf
from effc.preparation import STORE
from effc.version import __version__

if TYPE_CHECKING:
    from effc.compiler import Compilation

DIGEST_BYTES = 16
NAME = "trial"


@dataclass(frozen=True)
class Trials:
    """Builds of earlier runs.

    Attributes:
        surroundings: What a build's size and quality depend on beside its program.
        is_kept: Whether anything is kept at all.
    """

    surroundings: str
    is_kept: bool

    @classmethod
    def of(cls, compilation: Compilation) -> Trials:
        """Those of compiles with the same target, data and metric."""
        prepared, sources = compilation.prepared, compilation.sources
        metric, data = prepared.metric, prepared.evaluation
        is_known = metric is None or metric.name in BUILT_IN
        is_kept = compilation.recipe.resume and is_known and sources.evaluate is None
        if not is_kept:
            return cls("", False)
        place = place_of(prepared.target, __version__).model_dump_json()
        judged = f"{metric.name} {data.fingerprint()}" if metric is not None and data else ""
        clean = fingerprint(prepared.clean.program)
        schedules = compilation.tuning.known is not None and bool(compilation.tuning.trials)
        return cls(f"{clean} {place} {judged} {prepared.sizes} {schedules}", True)

    def recalled(self, program: Program) -> dict[str, Any] | None:
        """What is known of a build: `size_nbytes`, `quality`; None if nothing."""
        shelf = self._shelf(program)
        entry = shelf.read(NAME) if shelf is not None else None
        return dict(entry[0]) if entry is not None else None

    def remember(self, program: Program, facts: dict[str, Any]) -> None:
        """Keep what is known of a build."""
        shelf = self._shelf(program)
        if shelf is not None:
            shelf.write(NAME, facts, {})

    def _shelf(self, program: Program) -> Shelf | None:
        if not self.is_kept:
            return None
        key = json.dumps([fingerprint(program), self.surroundings])
        name = hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).hexdigest()
        return Shelf(options.cache_folder() / STORE / "trials" / name, key)
