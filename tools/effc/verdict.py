"""Whether a result keeps its promises: not slower, within the budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effc.budgets import loss_of
from effc.candidate import Candidate
from effc.ir.errors import BudgetError, EffcError, SlowerError
from effc.metrics import Metric
from effc.units import time_text

if TYPE_CHECKING:
    from effc.budgets import DropBudget, LatencyBudget, SizeBudget
    from effc.preparation import Prepared

NOISE = 1.02


@dataclass(frozen=True)
class Verdict:
    """What a result was judged to be.

    Attributes:
        problems: Every promise it breaks, in words; empty if it keeps them all.
        is_slower: Whether one of them is speed.
        breaks_budget: Whether one of them is a budget.
    """

    problems: tuple[str, ...]
    is_slower: bool = False
    breaks_budget: bool = False

    def error(self, kept: str) -> EffcError:
        """The error to raise; `kept` says where the result lies."""
        text = f"{'; '.join(self.problems)}; {kept}; --keep-going accepts such a result"
        return BudgetError(text) if self.breaks_budget else SlowerError(text)


def judge(best: Candidate, baseline: Candidate, prepared: Prepared) -> Verdict:
    """Compare a result with the baseline and the budgets."""
    budget = [
        *_size_problem(best, baseline, prepared.size),
        *_latency_problem(best, baseline, prepared.latency),
        *_drop_problem(best, baseline, prepared.drop, prepared.metric),
    ]
    if budget:
        budget += _plan_problem(best)
    slower = list(_speed_problem(best, baseline))
    return Verdict((*budget, *slower), bool(slower), bool(budget))


def _size_problem(best: Candidate, baseline: Candidate, size: SizeBudget | None) -> list[str]:
    if size is None:
        return []
    allowed, found = size.allowed(baseline.size_nbytes), best.size_nbytes
    if found <= allowed:
        return []
    share = 100 * found / baseline.size_nbytes
    return [
        f"size budget of {allowed:,} bytes not met: the nearest reached is {found:,} bytes "
        f"({share:.1f}% of the baseline)"
    ]


def latency_excess(best: Candidate, baseline: Candidate, budget: LatencyBudget | None) -> float:
    """By how many seconds a measured candidate takes longer than it may."""
    if budget is None or best.latency is None or baseline.latency is None:
        return 0.0
    return best.latency.median - budget.allowed(baseline.latency.median)


def _latency_problem(
    best: Candidate, baseline: Candidate, budget: LatencyBudget | None
) -> list[str]:
    if budget is None or best.latency is None or baseline.latency is None:
        return []
    if latency_excess(best, baseline, budget) <= 0:
        return []
    allowed, found = budget.allowed(baseline.latency.median), best.latency.median
    share = 100 * found / baseline.latency.median
    return [
        f"latency budget of {time_text(allowed)} not met: the nearest reached is "
        f"{time_text(found)} ({share:.1f}% of the baseline)"
    ]


def _plan_problem(best: Candidate) -> list[str]:
    """What a planning pass says of limits it could not keep."""
    said = [row["notes"]["infeasible"] for row in best.passes if "infeasible" in row["notes"]]
    return [f"by the plan's estimates: {text}" for text in said]


def _drop_problem(
    best: Candidate, baseline: Candidate, drop: DropBudget | None, metric: Metric | None
) -> list[str]:
    if drop is None or metric is None or best.quality is None or baseline.quality is None:
        return []
    allowed = drop.allowed(baseline.quality)
    loss = loss_of(baseline.quality, best.quality, metric.better)
    if loss <= allowed:
        return []
    return [
        f"quality budget of {drop} not met: {metric.name} is {best.quality:.4f}, the baseline's "
        f"{baseline.quality:.4f}; the nearest reached loses {loss:.4f}, allowed is {allowed:.4f}"
    ]


def seems_slower(best: Candidate, baseline: Candidate) -> bool:
    """Whether a result is slower than the baseline by more than noise.

    Both the typical run and the fastest tenth must say so: on a busy machine the typical run of a
    short program says more about its neighbours.
    """
    if best.latency is None or baseline.latency is None or not best.is_changed:
        return False
    typical = best.latency.median / baseline.latency.median
    undisturbed = best.latency.low / baseline.latency.low
    return min(typical, undisturbed) > NOISE


def _speed_problem(best: Candidate, baseline: Candidate) -> list[str]:
    if not seems_slower(best, baseline) or best.latency is None or baseline.latency is None:
        return []
    return [
        f"the result is slower than the baseline: {time_text(best.latency.median)} against "
        f"{time_text(baseline.latency.median)}"
    ]
