"""Elastic artifacts: weights stored once, a library per width or depth, the rest on loading."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effc.backends.agreement import agreement
from effc.backends.artifact import manifest_of, write_manifest
from effc.backends.runner import Model
from effc.backends.tvm_cpu.depths import DEPTHS, add_depth
from effc.backends.tvm_cpu.elastic import ELASTIC, WIDE, add_width
from effc.backends.tvm_cpu.session import LIBRARY, WEIGHTS
from effc.candidate import Candidate, build_candidate, check_outputs
from effc.codegen.schedule import nothing_chosen
from effc.ir.errors import NotAvailableError, UsageError
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.bits.narrow_weights import NarrowWeights
from effc.passes.manager import PassManager
from effc.passes.prune.blocks import PruneBlocks
from effc.passes.report import PipelineReport
from effc.version import __version__

if TYPE_CHECKING:
    from effc.compiler import Compilation
    from effc.recipe import Recipe

BACKEND = "tvm_cpu"
SHARED = frozenset({"lowbit"})  # families whose packed weights all widths read


def check_target(recipe: Recipe, target: Target) -> None:
    """Make sure that what is asked for can be built.

    Raises:
        NotAvailableError: If the target's backend shares no weights.
    """
    for option, is_asked in (("--elastic", recipe.elastic), ("--depths", recipe.depths)):
        if is_asked and target.backend != BACKEND:
            raise NotAvailableError(f"{option} for target {target}")


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
    """
    narrower = [bits for bits in compilation.recipe.elastic if bits < WIDE]
    if not narrower:
        return []
    target = compilation.prepared.target
    for bits in narrower:
        report = PassManager((NarrowWeights(bits),)).run(best.program, PassContext())
        if not report.changed:
            raise UsageError(
                "--elastic found no weights in 8-bit codes of groups; use it with "
                '-p "quantize-weights{bits=8}"'
            )
        with _built(compilation, best, report, f"{bits} bits", work) as folder:
            library = folder / f"model-{bits}.so"
            (folder / LIBRARY).rename(library)
            add_width(best.folder, bits, library, folder / WEIGHTS)
    _list_files(best, target)
    return [
        {"bits": bits, **_measured(compilation, best, f"{bits} bits", bits=bits)}
        for bits in narrower
    ]


def shortened(compilation: Compilation, best: Candidate, work: Path) -> list[dict[str, Any]]:
    """Add every number of first blocks the recipe names to a build.

    Args:
        compilation: Has a baseline, and data to evaluate on or not.
        best: The build; its folder gets the libraries, its manifest lists them.
        work: Where to build.

    Returns:
        A row per depth: `depth`, and what `widened` says of a width.

    Raises:
        UsageError: If there are not more blocks than that.
    """
    depths, target = compilation.recipe.depths, compilation.prepared.target
    if not depths:
        return []
    for depth in depths:
        step = PruneBlocks(keep=depth, importance="last")
        report = PassManager((step,)).run(best.program, PassContext())
        with _built(compilation, best, report, f"{depth} blocks", work) as folder:
            library = folder / f"model-depth-{depth}.so"
            (folder / LIBRARY).rename(library)
            add_depth(best.folder, depth, library, folder / WEIGHTS)
    _list_files(best, target)
    return [
        {"depth": depth, **_measured(compilation, best, f"{depth} blocks", depth=depth)}
        for depth in depths
    ]


@contextmanager
def _built(
    compilation: Compilation, best: Candidate, report: PipelineReport, form: str, work: Path
) -> Iterator[Path]:
    """A checked build of another form of the result, for as long as it is needed."""
    stage, folder = f"build {form}", work / form.replace(" ", "-")
    compilation.progress(stage, 0, 1)
    folder.mkdir()
    rows = [*best.passes, *report.to_json()]
    target, original = compilation.prepared.target, compilation.prepared.clean.program
    chosen = compilation.tuning.chosen if best.tuned_kernels else nothing_chosen
    name = f"{best.name} in {form}"
    made = build_candidate(name, report.program, target, folder, rows, chosen)
    check_outputs(made, compilation.prepared.inputs, original)
    made.model.close()
    yield folder
    shutil.rmtree(folder)
    compilation.progress(stage, 1, 1)


def _list_files(best: Candidate, target: Target) -> None:
    best.manifest = manifest_of(best.program, target, best.folder, __version__)
    write_manifest(best.manifest, best.folder)


def _measured(
    compilation: Compilation, best: Candidate, form: str, bits: int = 0, depth: int = 0
) -> dict[str, Any]:
    """Load a form as a user does, run and evaluate it."""
    with Model(best.folder, best.manifest.threads, bits=bits, depth=depth) as model:
        found = model.run(compilation.prepared.inputs)
        first = next(iter(best.outputs))
        scores = compilation.scores_of(replace(best, name=form, model=model, scores={}))
        memory = model.memory_nbytes
        library = f"model-{bits}.so" if bits else f"model-depth-{depth}.so"
        row = {
            "library_nbytes": (best.folder / library).stat().st_size,
            "memory_nbytes": memory,
            "sqnr_db": agreement(best.outputs[first], found[first]),
            "scores": scores,
        }
    said = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    described = ELASTIC if bits else DEPTHS
    compilation.notes.append(
        f"in {form} ({described}): {said or 'not evaluated'}, {memory / 1e6:.1f} MB in memory"
    )
    return row
