"""Keeping the quality budget: leave the most sensitive layers in float, as few as needed.

A bisection over the layers in the order of their measured sensitivity finds the smallest number
that must stay in float (after Schaefer et al., arXiv 2302.01382, with the signal-to-noise ratio
that each layer's output keeps as the order).
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from effc.budgets import loss_of
from effc.passes.plan.bisection import Bisection
from effc.passes.report import PipelineReport
from effc.sensitivity import layer_decibel

MOST_NAMES = 6
if TYPE_CHECKING:
    from effc.candidate import Candidate
    from effc.compiler import Compilation


def repaired(
    compilation: Compilation, first: Candidate, report: PipelineReport, work: Path
) -> Candidate:
    """The first candidate if it keeps the quality budget, else the one with fewest float layers.

    If no number of layers is enough, the candidate that loses least comes back and the verdict
    says so.

    Args:
        compilation: Builds and evaluates.
        first: With no layer left in float.
        report: The passes that made it; their notes tell how sensitive layers are.
        work: Where to build.
    """
    order = sensitive_layers(report)
    if quality_excess(compilation, first.quality) <= 0 or not order:
        return first
    search, best, tried = Bisection(1, len(order) + 1), first, 0
    steps = search.steps

    def excess_of(count: int) -> float:
        nonlocal best, tried
        compilation.progress("repair", tried, steps)
        tried += 1
        trial = _trial(compilation, order[:count], work / f"float-{count}")
        excess = quality_excess(compilation, trial.quality)
        if excess <= 0 or excess < quality_excess(compilation, best.quality):
            best, trial = trial, best
        trial.model.close()
        shutil.rmtree(trial.folder)
        return excess

    chosen = search.search(excess_of)
    compilation.progress("repair", steps, steps)
    if chosen is not None:
        names = [*order[: min(chosen, MOST_NAMES)], *(["..."] if chosen > MOST_NAMES else [])]
        compilation.notes.append(
            f"quality budget: {chosen} of {len(order)} layers stay in float: {', '.join(names)}"
        )
    return best


def sensitive_layers(report: PipelineReport) -> list[str]:
    """Quantized layers, the one with the lowest signal-to-noise ratio first."""
    found: dict[str, float] = {}
    for row in report.rows:
        for label, notes in row.notes.get("layers", {}).items():
            layer, _, _ = label.partition("#")  # a layer that is called twice has two notes
            found[layer] = min(layer_decibel(notes), found.get(layer, math.inf))
    return sorted(found, key=lambda layer: found[layer])


def _trial(compilation: Compilation, layers: list[str], folder: Path) -> Candidate:
    report = compilation.transformed(layers)
    candidate = compilation.tried(report, folder, "compiled")
    compilation.trials[-1]["what"] = f"compiled, float layers: {len(layers)}"
    return candidate


def quality_excess(compilation: Compilation, after: float | None) -> float:
    """By how much a build's quality is less than is allowed; at most 0 if it keeps the budget."""
    drop, metric = compilation.prepared.drop, compilation.prepared.metric
    before = compilation.baseline.quality
    if drop is None or metric is None or before is None or after is None:
        return 0.0
    return loss_of(before, after, metric.better) - drop.allowed(before)
