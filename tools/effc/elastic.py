"""Elastic artifacts: one stored weight, a library per width, everything else derived on loading."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effc.backends.agreement import agreement
from effc.backends.artifact import manifest_of, write_manifest
from effc.backends.runner import Model
from effc.backends.tvm_cpu.elastic import ELASTIC, WIDE, add_width
from effc.backends.tvm_cpu.session import LIBRARY, WEIGHTS
from effc.candidate import Candidate, build_candidate, check_outputs
from effc.ir.errors import NotAvailableError, UsageError
from effc.passes.base import PassContext
from effc.passes.bits.narrow_weights import NarrowWeights
from effc.passes.manager import PassManager
from effc.version import __version__

if TYPE_CHECKING:
    from effc.compiler import Compilation

BACKEND = "tvm_cpu"


def widened(compilation: Compilation, best: Candidate, work: Path) -> list[dict[str, Any]]:
    """Add every narrower width the recipe names to a build.

    Args:
        compilation: Has a baseline, and data to evaluate on or not.
        best: The build; its folder gets the libraries, its manifest lists them.
        work: Where to build.

    Returns:
        A row per width: `bits`, `library_nbytes`, `memory_nbytes`, `sqnr_db` of the first output
        beside that of the stored width, `scores`.

    Raises:
        UsageError: If there is nothing to narrow.
        NotAvailableError: If the target's backend has no such weights.
    """
    narrower = [bits for bits in compilation.recipe.elastic if bits < WIDE]
    if not narrower:
        return []
    target = compilation.prepared.target
    if target.backend != BACKEND:
        raise NotAvailableError(f"--elastic for target {target}")
    for bits in narrower:
        stage, folder = f"build {bits} bits", work / f"width-{bits}"
        compilation.progress(stage, 0, 1)
        report = PassManager((NarrowWeights(bits),)).run(best.program, PassContext())
        if not report.changed:
            raise UsageError(
                "--elastic found no weights in 8-bit codes of groups; use it with "
                '-p "quantize-weights{bits=8}"'
            )
        folder.mkdir()
        rows = [*best.passes, *report.to_json()]
        name = f"{best.name} in {bits} bits"
        narrow = build_candidate(name, report.program, target, folder, rows)
        check_outputs(narrow, compilation.prepared.inputs, compilation.prepared.clean.program)
        narrow.model.close()
        library = folder / f"model-{bits}.so"
        (folder / LIBRARY).rename(library)
        add_width(best.folder, bits, library, folder / WEIGHTS)
        shutil.rmtree(folder)
        compilation.progress(stage, 1, 1)
    best.manifest = manifest_of(best.program, target, best.folder, __version__)
    write_manifest(best.manifest, best.folder)
    return [_measured(compilation, best, bits) for bits in narrower]


def _measured(compilation: Compilation, best: Candidate, bits: int) -> dict[str, Any]:
    """Load a width as a user does, run and evaluate it."""
    with Model(best.folder, best.manifest.threads, bits=bits) as model:
        found = model.run(compilation.prepared.inputs)
        first = next(iter(best.outputs))
        scores = compilation.scores_of(replace(best, name=f"{bits} bits", model=model, scores={}))
        memory = model.memory_nbytes
        row = {
            "bits": bits,
            "library_nbytes": (best.folder / f"model-{bits}.so").stat().st_size,
            "memory_nbytes": memory,
            "sqnr_db": agreement(best.outputs[first], found[first]),
            "scores": scores,
        }
    said = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    compilation.notes.append(
        f"in {bits} bits ({ELASTIC}): {said or 'not evaluated'}, {memory / 1e6:.1f} MB in memory"
    )
    return row
