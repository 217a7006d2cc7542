"""The record of a compile, from which every table and page is drawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from effc.backends.runner import Model
from effc.candidate import Candidate
from effc.environment import environment, peak_memory_nbytes
from effc.ir.cost import program_cost
from effc.verdict import Verdict

if TYPE_CHECKING:
    from effc.compiler import Compilation

FORMAT = 1


def report_of(compilation: Compilation, best: Candidate, verdict: Verdict) -> dict[str, Any]:
    """Everything worth knowing of a finished compile, JSON-able."""
    program, metric = compilation.clean.program, compilation.metric
    return {
        "format": FORMAT,
        "environment": environment(),
        "compile": {
            "seconds": time.monotonic() - compilation.started,
            "peak_memory_nbytes": peak_memory_nbytes(),
        },
        "recipe": compilation.recipe.model_dump(),
        "model": {
            "name": program.name,
            "signature": str(program.signature),
            "symbols": [str(symbol) for symbol in program.symbols.values()],
            "cost": program_cost(program).at(compilation.sizes),
        },
        "measured_at": {
            "sizes": compilation.sizes,
            "threads": compilation.target.cores,
            "target": compilation.target.name,
        },
        "metric": {"name": metric.name, "better": metric.better} if metric else None,
        "baseline": compilation.baseline.to_json(),
        "result": best.to_json(),
        "clean": compilation.clean.to_json(),
        "passes": best.passes,
        "lowering": [dict(vars(row)) for row in best.built.rows],
        "kernels": best.built.kernels,
        "profile": profile_of(best.model, compilation.inputs),
        "memory": best.built.memory,
        "verdict": {
            "problems": list(verdict.problems),
            "is_slower": verdict.is_slower,
            "breaks_budget": verdict.breaks_budget,
        },
        "notes": list(compilation.notes),
    }


def profile_of(model: Model, inputs: dict[str, Any], runs: int = 5) -> list[dict[str, Any]]:
    """Seconds per step: the fastest of several runs."""
    best: dict[int, tuple[str, float]] = {}
    for _ in range(runs):
        for number, (name, seconds) in enumerate(model.session.profile(inputs)):
            if number not in best or seconds < best[number][1]:
                best[number] = (name, seconds)
    rows = []
    for name, seconds in best.values():
        family, _, source = name.partition(" ")
        rows.append({"family": family, "source": source, "seconds": seconds})
    return rows
