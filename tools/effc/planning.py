"""Keeping budgets with a plan: how small or how exact `allocate-bits` is told to be.

The pass predicts; what is built is measured. A size budget becomes a limit on the bytes of weights
and is tightened by what the build takes beyond it. With a quality budget, a bisection over all
sizes at which the plan changes finds the smallest one whose build keeps it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from effc.explanation import plan_note
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.plan.bisection import Bisection
from effc.passes.plan.model import Limit
from effc.passes.report import PipelineReport
from effc.repair import quality_excess

if TYPE_CHECKING:
    from effc.candidate import Candidate
    from effc.compiler import Compilation

TIGHTENINGS = 4


def has_plan(compilation: Compilation) -> bool:
    """Whether one of the passes chooses formats by a plan."""
    return any(isinstance(step, AllocateBits) for step in compilation.prepared.passes)


def planned(compilation: Compilation, work: Path) -> Candidate:
    """The best build of a plan within the budgets, or the nearest; the verdict says which.

    Args:
        compilation: Builds and evaluates; has a baseline.
        work: Where to build.
    """
    return _Search(compilation, work).run()


class _Search:
    """Builds plans of different sizes and keeps the best one."""

    def __init__(self, compilation: Compilation, work: Path) -> None:
        self.compilation, self.work = compilation, work
        prepared, baseline = compilation.prepared, compilation.baseline.size_nbytes
        self.largest = prepared.size.allowed(baseline) if prepared.size else None
        self.overhead = baseline - prepared.clean.program.weight_nbytes
        self.best: Candidate | None = None
        self.best_rank = (0.0, 0.0, 0.0)

    def run(self) -> Candidate:
        """Build as many as it takes."""
        if self.compilation.prepared.drop is None:
            self._fitted(None if self.largest is None else self.largest - self.overhead)
        else:
            self._bisect()
        assert self.best is not None, "at least one plan is built"
        return self.best

    def _bisect(self) -> None:
        """Look for the smallest size whose build keeps the quality budget."""
        sizes = self._sizes()
        search = Bisection(0, len(sizes))
        steps, tried = search.steps, 0

        def excess(at: int) -> float:
            nonlocal tried
            self.compilation.progress("plan", tried, steps)
            tried += 1
            return self._fitted(sizes[at])

        search.search(excess)
        self.compilation.progress("plan", steps, steps)

    def _sizes(self) -> list[int]:
        """Bytes of weights at which the plan changes, within the size budget, and the budget's."""
        plan = plan_note(self.compilation.transformed().to_json()) or {}
        sizes = [int(one) for one in plan.get("sizes", [])]
        most = sizes[-1] if sizes else 0
        most = most if self.largest is None else min(most, self.largest - self.overhead)
        return [*(one for one in sizes if one < most), most]

    def _fitted(self, nbytes: int | None) -> float:
        """Build a plan of at most so many bytes of weights, of fewer if the build is too large.

        Returns:
            By how much the last build misses the quality budget.
        """
        excess = 0.0
        for _ in range(TIGHTENINGS):
            limits = () if nbytes is None else (self._limit(nbytes),)
            report = self.compilation.transformed(limits=limits)
            beyond, excess = self._built(report, nbytes)
            if beyond <= 0 or nbytes is None or _is_infeasible(report):
                break
            taken = plan_note(report.to_json())
            if taken is None:
                break
            whole = int(taken["totals"]["nbytes"]) + int(taken["other_nbytes"])
            nbytes = min(nbytes, whole) - beyond
        return excess

    def _limit(self, nbytes: int) -> Limit:
        is_budget = self.largest is not None and nbytes == self.largest - self.overhead
        text = f"--max-size {self.compilation.recipe.max_size}" if is_budget else ""
        return Limit("nbytes", nbytes, text)

    def _built(self, report: PipelineReport, nbytes: int | None) -> tuple[int, float]:
        """Build a plan and keep it if it is the best: budgets first, then size.

        Returns:
            Bytes beyond the size budget, and by how much the quality budget is missed.
        """
        compilation = self.compilation
        folder = self.work / f"plan-{len(compilation.trials)}"
        candidate = compilation.tried(report, folder, "compiled")
        plan = plan_note(report.to_json()) or {"totals": {}}
        limit = "no limit" if nbytes is None else f"at most {nbytes:,} bytes of weights"
        compilation.trials[-1] |= {
            "what": f"compiled, {limit}",
            "predicted_loss": plan["totals"].get("loss"),
        }
        size, excess = candidate.size_nbytes, quality_excess(compilation, candidate)
        beyond = 0 if self.largest is None else size - self.largest
        rank = (max(beyond, 0), max(excess, 0.0), size)
        loser: Candidate | None = candidate
        if self.best is None or rank < self.best_rank:
            loser, self.best, self.best_rank = self.best, candidate, rank
        if loser is not None:
            loser.model.close()
            shutil.rmtree(loser.folder)
        return beyond, excess


def _is_infeasible(report: PipelineReport) -> bool:
    return any("infeasible" in row.notes for row in report.rows)
