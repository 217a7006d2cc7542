"""Keeping budgets with a plan: how small, fast or exact a pass that plans is told to be.

The pass predicts; what is built is measured. Budgets of size and latency become limits on bytes and
seconds and are tightened by what the build takes beyond them. With a quality budget, a bisection
over all sizes at which the plan changes finds the smallest one whose build keeps it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effc.explanation import groups_of, layers_of, plan_note
from effc.latency import measured_timing
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.plan.bisection import Bisection
from effc.passes.plan.model import Limit
from effc.passes.report import PipelineReport
from effc.repair import quality_excess
from effc.trials import Trials
from effc.units import time_text
from effc.verdict import latency_excess

if TYPE_CHECKING:
    from effc.candidate import Candidate
    from effc.compiler import Compilation

TIGHTENINGS = 4
MARGIN = 0.02  # of the latency allowed, which the last measurement may differ by


def has_plan(compilation: Compilation) -> bool:
    """Whether one of the passes chooses formats by a plan."""
    return any(isinstance(step, AllocateBits) for step in compilation.prepared.passes)


def planned(compilation: Compilation, work: Path) -> Candidate:
    """The best build of a plan within the budgets, or the nearest; the verdict says which.

    Args:
        compilation: Builds and evaluates; has a baseline.
        work: Where to build.
    """
    if compilation.prepared.latency is not None:
        compilation.measure(compilation.baseline)
        compilation.timing = measured_timing(compilation, work)
    return _Search(compilation, work).run()


@dataclass(frozen=True)
class _Aim:
    """What a plan is told to keep: bytes of all weights and seconds of a run; None for no limit."""

    nbytes: int | None = None
    seconds: float | None = None

    def tightened(self, plan: dict[str, Any], beyond: _Beyond) -> _Aim:
        """Less of what a build of the plan took too much of, than the plan or the aim had."""
        nbytes, seconds = self.nbytes, self.seconds
        if nbytes is not None and beyond.nbytes > 0:
            whole = int(plan["totals"]["nbytes"]) + int(plan["other_nbytes"])
            nbytes = min(nbytes, whole) - beyond.nbytes
        if seconds is not None and beyond.seconds > 0:
            whole_seconds = plan["totals"]["seconds"] + plan["other_seconds"]
            seconds = min(seconds, whole_seconds) - beyond.seconds
        return _Aim(nbytes, seconds)


@dataclass(frozen=True)
class _Beyond:
    """By how much a build misses the budgets; at most 0 where it keeps them."""

    nbytes: int
    seconds: float
    quality: float

    @property
    def is_kept(self) -> bool:
        """Whether size and latency are as they should be."""
        return self.nbytes <= 0 and self.seconds <= 0


class _Search:
    """Builds plans of different sizes and keeps the best one."""

    def __init__(self, compilation: Compilation, work: Path) -> None:
        self.compilation, self.work = compilation, work
        prepared, baseline = compilation.prepared, compilation.baseline
        size, latency = baseline.size_nbytes, baseline.latency
        self.largest = prepared.size.allowed(size) if prepared.size else None
        self.overhead = size - prepared.clean.program.weight_nbytes
        self.seen_overhead = self.overhead
        self.longest: float | None = None
        if prepared.latency is not None and latency is not None:
            self.longest = prepared.latency.allowed(latency.median) * (1 - MARGIN)
        self.trials = Trials.of(compilation)
        self.best: Candidate | None = None
        self.best_report: PipelineReport | None = None
        self.best_rank: tuple[float, ...] = ()
        self.has_none = False  # whether no plan kept the last limits
        self._known: dict[tuple[tuple[str, str], ...], _Beyond] = {}

    def run(self) -> Candidate:
        """Build as many as it takes."""
        if self.compilation.prepared.drop is None:
            self._fitted(self._room())
            if self._has_more_room():
                self._fitted(self._room())
        else:
            self._bisect()
        assert self.best_report is not None, "at least one plan is built"
        if self.best is None:  # all that is known of it is from an earlier run
            self.best = self._candidate(self.best_report)
            del self.compilation.trials[-1]
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

    def _room(self) -> int | None:
        """Bytes of weights that fit into the size budget."""
        return None if self.largest is None else self.largest - self.overhead

    def _has_more_room(self) -> bool:
        """Whether no plan seemed to fit and a build took less beside its weights than expected.

        What is expected is what the baseline takes, whose kernels may be larger.
        """
        is_more = self.has_none and self.seen_overhead < self.overhead
        self.overhead = self.seen_overhead if is_more else self.overhead
        return is_more and self.largest is not None

    def _sizes(self) -> list[int]:
        """Bytes of weights at which the plan changes, within the size budget, and the budget's."""
        plan = plan_note(self.compilation.transformed().to_json()) or {}
        sizes = [int(one) for one in plan.get("sizes", [])]
        room, most = self._room(), sizes[-1] if sizes else 0
        if room is not None and sizes and room < sizes[0]:
            self._fitted(room)
            room = self._room() if self._has_more_room() else room
        most = most if room is None else min(most, room)
        return [*(one for one in sizes if one < most), most]

    def _fitted(self, nbytes: int | None) -> float:
        """Build a plan of at most so many bytes of weights, of less if the build takes too much.

        Returns:
            By how much the last build misses the quality budget.
        """
        aim, quality = _Aim(nbytes, self.longest), 0.0
        for _ in range(TIGHTENINGS):
            report = self.compilation.transformed(limits=self._limits(aim))
            beyond = self._built(report, aim)
            quality, plan = beyond.quality, plan_note(report.to_json())
            self.has_none = _is_infeasible(report)
            if beyond.is_kept or _is_infeasible(report) or plan is None:
                break
            aim = aim.tightened(plan, beyond)
        return quality

    def _limits(self, aim: _Aim) -> list[Limit]:
        recipe, limits = self.compilation.recipe, []
        if aim.nbytes is not None:
            is_budget = self.largest is not None and aim.nbytes == self.largest - self.overhead
            text = f"--max-size {recipe.max_size}" if is_budget else ""
            limits.append(Limit("nbytes", aim.nbytes, text))
        if aim.seconds is not None:
            text = f"--max-latency {recipe.max_latency}" if aim.seconds == self.longest else ""
            limits.append(Limit("seconds", aim.seconds, text))
        return limits

    def _built(self, report: PipelineReport, aim: _Aim) -> _Beyond:
        """Build a plan, unless it was built before, and keep it if it is the best.

        Budgets come first, then size, or predicted loss where there is no quality budget.
        """
        formats = _formats(report)
        if formats in self._known:
            return self._known[formats]
        facts = self._recalled(report)
        candidate = None
        if facts is None:
            candidate = self._candidate(report)
            facts = facts_of(candidate)
            self.trials.remember(report.program, facts)
        else:
            self.compilation.trials.append({**facts, "what": "compiled"})
        plan = plan_note(report.to_json()) or {"totals": {}}
        self.compilation.trials[-1] |= {
            "what": f"compiled, {_limit_text(aim)}",
            "predicted_loss": plan["totals"].get("loss"),
        }
        beyond = self._judged(facts, candidate)
        if "other_nbytes" in plan:
            weights = int(plan["totals"]["nbytes"]) + int(plan["other_nbytes"])
            self.seen_overhead = min(self.seen_overhead, facts["size_nbytes"] - weights)
        size, loss = float(facts["size_nbytes"]), plan["totals"].get("loss", 0.0)
        rank = (
            max(beyond.nbytes, 0), max(beyond.seconds, 0.0), max(beyond.quality, 0.0),
            loss if self.compilation.prepared.drop is None else size, size,
        )  # fmt: skip
        self._keep_best(report, candidate, rank)
        self._known[formats] = beyond
        return beyond

    def _keep_best(
        self, report: PipelineReport, candidate: Candidate | None, rank: tuple[float, ...]
    ) -> None:
        """Take a plan for the best if it ranks first; remove the build that is not."""
        loser = candidate
        if self.best_report is None or rank < self.best_rank:
            loser, self.best, self.best_rank = self.best, candidate, rank
            self.best_report = report
        if loser is not None:
            loser.model.close()
            shutil.rmtree(loser.folder)

    def _candidate(self, report: PipelineReport) -> Candidate:
        compilation = self.compilation
        folder = self.work / f"plan-{len(compilation.trials)}"
        return compilation.tried(report, folder, "compiled")

    def _recalled(self, report: PipelineReport) -> dict[str, Any] | None:
        """What an earlier run found of the same build; latencies are measured anew."""
        return self.trials.recalled(report.program) if self.longest is None else None

    def _judged(self, facts: dict[str, Any], candidate: Candidate | None) -> _Beyond:
        compilation, seconds = self.compilation, 0.0
        if self.longest is not None and candidate is not None:
            compilation.measure(candidate)
            assert candidate.latency is not None
            compilation.trials[-1]["seconds"] = candidate.latency.median
            budget = compilation.prepared.latency
            seconds = latency_excess(candidate, compilation.baseline, budget)
        beyond = 0 if self.largest is None else facts["size_nbytes"] - self.largest
        return _Beyond(beyond, seconds, quality_excess(compilation, facts["quality"]))


def facts_of(candidate: Candidate) -> dict[str, Any]:
    """What is kept of a build."""
    return {"size_nbytes": candidate.size_nbytes, "quality": candidate.quality}


def _formats(report: PipelineReport) -> tuple[tuple[str, str], ...]:
    """What tells plans apart: formats of layers, counts that groups keep."""
    rows = report.to_json()
    layers = layers_of(rows)
    formats = [(name, str(note.get("format", ""))) for name, note in sorted(layers.items())]
    return (*formats, *((str(row["name"]), str(row["kept"])) for row in groups_of(rows)))


def _limit_text(aim: _Aim) -> str:
    parts = []
    if aim.nbytes is not None:
        parts.append(f"at most {aim.nbytes:,} bytes of weights")
    if aim.seconds is not None:
        parts.append(f"at most {time_text(aim.seconds)}")
    return ", ".join(parts) or "no limit"


def _is_infeasible(report: PipelineReport) -> bool:
    return any("infeasible" in row.notes for row in report.rows)
