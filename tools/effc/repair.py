"""Keeping the quality budget: leave the most sensitive layers in float, as few as needed.

A bisection over the layers in the order of their measured sensitivity finds the smallest number
that must stay in float (after Schaefer et al., arXiv 2302.01382, with the signal-to-noise ratio of each
layer's encoding as the order).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from effc.budgets import loss_of
from effc.passes.report import PipelineReport

if TYPE_CHECKING:
    from effc.candidate import Candidate
    from effc.compiler import Compilation


def repaired(
    compilation: Compilation, first: Candidate, report: PipelineReport, work: Path
) -> Candidate:
    """The first candidate if it keeps the quality budget, else the one with fewest float layers.

    If no number of layers is enough, the first candidate comes back and the verdict says so.
    """
    order = sensitive_layers(report)
    if _keeps(compilation, first) or not order:
        return first
    best, low, high = None, 1, len(order)
    while low <= high:
        count = (low + high) // 2
        compilation.progress("repair", len(order) - (high - low), len(order))
        trial = _trial(compilation, order[:count], work / f"float-{count}")
        if _keeps(compilation, trial):
            best, high = trial, count - 1
        else:
            shutil.rmtree(trial.folder)
            low = count + 1
    if best is None:
        return first
    compilation.progress("repair", len(order), len(order))
    kept = next(n for n in range(len(order), 0, -1) if best.folder.name == f"float-{n}")
    compilation.notes.append(f"quality budget: {kept} of {len(order)} layers stay in float")
    return best


def _trial(compilation: Compilation, layers: list[str], folder: Path) -> Candidate:
    report = compilation.transformed(exclude=layers)
    candidate = compilation.build(report, folder, "compiled")
    compilation.evaluate(candidate, compilation.baseline)
    return candidate


def _keeps(compilation: Compilation, candidate: Candidate) -> bool:
    drop, metric, baseline = compilation.drop, compilation.metric, compilation.baseline
    if drop is None or metric is None or candidate.quality is None or baseline.quality is None:
        return True
    loss = loss_of(baseline.quality, candidate.quality, metric.better)
    return loss <= drop.allowed(baseline.quality)


def sensitive_layers(report: PipelineReport) -> list[str]:
    """Quantized layers, the one with the lowest signal-to-noise ratio first."""
    found: dict[str, float] = {}
    for row in report.rows:
        for layer, notes in row.notes.get("layers", {}).items():
            ratio = notes.get("sqnr_db")
            if isinstance(ratio, int | float):
                found[layer] = min(ratio, found.get(layer, ratio))
    return sorted(found, key=lambda layer: found[layer])
