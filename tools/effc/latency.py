"""Times of layers in every number format, measured in builds of the whole model.

As the table of OHQ (Huang et al., 2023, arXiv 2309.01945), which measures every operator on the
chip it is meant for: one build per format, whose profile says how long each layer takes in it with
all that surrounds it. Profiles go into the tuning database and are measured once per machine.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from effc.backends.tuning.database import Profile
from effc.backends.tuning.search import now
from effc.candidate import Candidate, build_candidate
from effc.ir.text import fingerprint
from effc.passes.base import Pass
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.plan.timing import Timing
from effc.passes.registry import pipeline_text
from effc.profile import profile_of

if TYPE_CHECKING:
    from effc.compiler import Compilation

STAGE = "measure formats"
DIGEST_BYTES = 16
Seconds = dict[str, float]


def measured_timing(compilation: Compilation, work: Path) -> Timing:
    """Seconds of every layer in every format on offer; measured where the database has none.

    Args:
        compilation: Has a baseline.
        work: Where to build; what is built is removed again.
    """
    step = next(s for s in compilation.prepared.passes if isinstance(s, AllocateBits))
    forms = list(dict.fromkeys(str(step.form(text)) for text in step.bits))
    found: dict[str, Seconds] = {}
    for done, form in enumerate(forms):
        compilation.progress(STAGE, done, len(forms))
        found[form] = _profile(compilation, form, work / "format")
    compilation.progress(STAGE, len(forms), len(forms))
    return Timing(found)


def _profile(compilation: Compilation, form: str, folder: Path) -> Seconds:
    """Seconds by layer with all layers in one format, from the database or measured."""
    known = compilation.tuning.known
    passes = uniform_passes(compilation.prepared.passes, form)
    key = _key(compilation, passes)
    if known is not None:
        entry = known.database.profile(key, known.place, known.sizes)
        if entry is not None:
            return entry.seconds
    candidate = _built(compilation, passes, folder)
    rows = profile_of(candidate.model, compilation.prepared.inputs, candidate.built.kernels)
    candidate.model.close()
    shutil.rmtree(folder)
    seconds: Seconds = {}
    for row in rows:
        seconds[row["source"]] = seconds.get(row["source"], 0.0) + row["seconds"]
    if known is not None:
        line = Profile(model=key, seconds=seconds, place=known.place, sizes=known.sizes, when=now())
        known.database.append([line])
    return seconds


def uniform_passes(passes: tuple[Pass, ...], form: str) -> tuple[Pass, ...]:
    """A pipeline whose plan offers one format, without looking at any data for it."""
    return tuple(step.uniform(form) if isinstance(step, AllocateBits) else step for step in passes)


def _built(compilation: Compilation, passes: tuple[Pass, ...], folder: Path) -> Candidate:
    report = compilation.transformed(passes=passes)
    folder.mkdir()
    target, chosen = compilation.prepared.target, compilation.tuning.chosen
    return build_candidate("format", report.program, target, folder, report.to_json(), chosen)


def _key(compilation: Compilation, passes: tuple[Pass, ...]) -> str:
    recipe = compilation.prepared.recipe
    program = fingerprint(compilation.prepared.clean.program)
    text = f"{program} {pipeline_text(passes)} {recipe.set} {recipe.exclude} {recipe.calib}"
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
