"""The record of a compile, from which every table and page is drawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from effc.candidate import Candidate
from effc.environment import environment, peak_memory_nbytes
from effc.ir.cost import program_cost
from effc.profile import peaks_of, profile_of
from effc.verdict import Verdict

if TYPE_CHECKING:
    from effc.compiler import Compilation

FORMAT = 1


def report_of(compilation: Compilation, best: Candidate, verdict: Verdict) -> dict[str, Any]:
    """Everything worth knowing of a finished compile, JSON-able; docs/report.md describes it."""
    prepared = compilation.prepared
    program, metric = prepared.clean.program, prepared.metric
    return {
        "format": FORMAT,
        "environment": environment(),
        "recipe": prepared.recipe.model_dump(),
        "model": {
            "name": program.name,
            "signature": str(program.signature),
            "symbols": [str(symbol) for symbol in program.symbols.values()],
            "cost": program_cost(program).at(prepared.sizes),
        },
        "measured_at": {
            "sizes": prepared.sizes,
            "threads": prepared.target.cores,
            "target": prepared.target.name,
        },
        "metric": {"name": metric.name, "better": metric.better} if metric else None,
        "baseline": compilation.baseline.to_json(),
        "result": best.to_json(),
        "trials": list(compilation.trials),
        "clean": prepared.clean.to_json(),
        "passes": best.passes,
        "lowering": [dict(vars(row)) for row in best.built.rows],
        "kernels": best.built.kernels,
        "profile": profile_of(best.model, prepared.inputs, best.built.kernels),
        "peaks": peaks_of(best.model, prepared.target.cores),
        "memory": best.built.memory,
        "elastic": list(compilation.widths),
        "depths": list(compilation.depths),
        "tuning": compilation.tuning.to_json(best),
        "compile": {
            "seconds": time.perf_counter() - compilation.started,
            "peak_memory_nbytes": peak_memory_nbytes(),
        },
        "verdict": {
            "problems": list(verdict.problems),
            "is_slower": verdict.is_slower,
            "breaks_budget": verdict.breaks_budget,
        },
        "notes": list(compilation.notes),
    }
