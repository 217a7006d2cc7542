"""Cuts channels, neurons, heads and the width of the residual stream."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.cutting import cut
from effc.ir.coupling.groups import OTHER, Group, groups_of
from effc.ir.coupling.kept import Kept
from effc.ir.errors import BudgetError, Refusal, UsageError
from effc.ir.program import Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.prune.adaptive import adaptive, tilts
from effc.passes.prune.cost import CutCost
from effc.passes.prune.importance.registry import importance_of
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.prune.planning import least_loss
from effc.passes.prune.repair import repair
from effc.passes.prune.selection import SPREADS, step_of, uniform
from effc.passes.prune.sequential import repair_in_order

FLOAT_BITS, LANES = 32, 16
SCOPE = ("channels", "neurons", "hidden", "heads")
RESOURCES = ("channels", "macs", "parameters")
STEPS, PLAN, ADAPTIVE = 24, "plan", "adaptive"
REPAIRS = {"columns": repair, "sequential": repair_in_order}


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Removes the channels of each group that matter least, from all weights they stand in.

    What is left computes what the whole program does with those channels masked to zero; norms go
    over what is left. Groups come from the coupling analysis (`ir/coupling`).

    Attributes:
        ratio: The share that goes.
        of: Of what: of the `channels` of each group, or of the program's `macs` or `parameters`,
            for which the share of channels is searched.
        importance: What says how much a channel matters (`passes/prune/importance/`).
        spread: `uniform`, the same share of every group, `global`, the least important of all,
            `adaptive`, less where a residual block changes much (Adapt-Pruner), or `plan`: the
            least sum of scores for the `macs` or `parameters` that go.
        align: Kept counts are multiples of this; the width of the target's vectors if None.
        scope: Kinds of groups: `channels`, `neurons`, `hidden`, `heads` (whole groups of queries),
            also `query-heads` and `head-width`.
        repair: How layers are fitted to calibration data: `none`; `columns`, those that read what
            goes, from statistics of the whole program; `sequential`, all, one after another.
    """

    name: ClassVar[str] = "prune-channels"
    layer_options: ClassVar[tuple[str, ...]] = ()
    ratio: float = 0.3
    of: str = "channels"
    importance: str = "l2"
    spread: str = "uniform"
    align: int | None = None
    scope: tuple[str, ...] = SCOPE
    repair: str = "none"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Score, choose, repair, cut.

        Raises:
            UsageError: For an option that makes no sense, or where nothing can be cut.
            BudgetError: If so many multiply-adds or parameters cannot go.
            DataError: If the importance or the repair needs data and there is none.
        """
        self._check()
        study = Scoring(program, analyse(program), ctx, self.repair == "columns")
        groups, refusals = self._groups(study)
        chosen = self._chosen(study, groups)
        kept = Kept(study.coupling, chosen)
        notes = self._notes(study, groups, chosen)
        if not len(chosen):
            return Outcome(False, notes, refusals)
        if self.repair != "none":
            notes["repaired"] = len(REPAIRS[self.repair](study, kept))
        cut(program, kept, self.name)
        return Outcome(True, notes, refusals)

    def _check(self) -> None:
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"prune-channels: ratio={self.ratio:g} leaves "
                f"{'nothing' if self.ratio >= 1 else 'everything'}; take one between 0 and 1"
            )
        choices = (
            (self.of, RESOURCES),
            (self.spread, (*SPREADS, ADAPTIVE, PLAN)),
            (self.repair, ("none", *REPAIRS)),
        )
        for value, known in choices:
            if value not in known:
                raise UsageError(f"prune-channels: {value!r} is none of {', '.join(known)}")
        if self.spread == PLAN and self.of == "channels":
            raise UsageError("prune-channels: spread=plan needs of=macs or of=parameters")
        if self.align is not None and self.align < 1:
            raise UsageError(f"prune-channels: align={self.align} is no number of channels")

    def _groups(self, study: Scoring) -> tuple[list[Group], tuple[Refusal, ...]]:
        """The groups to cut, and why the others are left alone."""
        check_patterns(
            study.ctx, [one.name for one in groups_of(study.coupling) if one.kind != OTHER]
        )
        left, refusals = groups_to_cut(study, self.scope, self.name)
        if not left:
            reasons = Counter(refusal.reason for refusal in refusals)
            why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
            raise UsageError(f"{study.program.name} has no group that can be pruned{why}")
        return left, refusals

    def _chosen(self, study: Scoring, groups: list[Group]) -> NDArray[np.int64]:
        importance = importance_of(self.importance)
        choose = SPREADS.get(self.spread, uniform)
        if self.spread == ADAPTIVE:
            choose = partial(adaptive, tilted=tilts(study, groups))
        scores = [importance.scores(study, group) for group in groups]
        lanes = self.align or lanes_of(study.ctx)
        steps = [step_of(group, lanes) for group in groups]
        if self.of == "channels":
            return choose(groups, scores, self.ratio, steps)
        cost = CutCost(study.program, study.coupling)
        whole = cost.of(self.of, np.zeros(0, np.int64))
        goal = whole * (1 - self.ratio)
        low, high, found = 0.0, 1.0, choose(groups, scores, 1.0, steps)
        if (least := cost.of(self.of, found)) > goal:
            raise BudgetError(
                f"prune-channels: cannot remove {self.ratio:.0%} of the {self.of}; the nearest is "
                f"{1 - least / whole:.1%}"
            )
        if self.spread == PLAN:
            return least_loss(groups, scores, steps, cost, self.of, goal)
        for _ in range(STEPS):
            middle = (low + high) / 2
            trial = choose(groups, scores, middle, steps)
            if cost.of(self.of, trial) <= goal:
                high, found = middle, trial
            else:
                low = middle
        return found

    def _notes(
        self, study: Scoring, groups: list[Group], chosen: NDArray[np.int64]
    ) -> dict[str, Any]:
        cost, nothing = CutCost(study.program, study.coupling), np.zeros(0, np.int64)
        rows = []
        for group in groups:
            left = group.size - int(np.isin(group.atoms, chosen).sum())
            rows.append({"name": group.name, "kind": group.kind, "size": group.size, "kept": left})
        return {
            "groups": rows,
            "macs": [round(cost.macs(nothing)), round(cost.macs(chosen))],
            "parameters": [cost.parameters(nothing), cost.parameters(chosen)],
        }


def groups_to_cut(
    study: Scoring, scope: Sequence[str], rule: str
) -> tuple[list[Group], tuple[Refusal, ...]]:
    """The groups of some kinds that can be cut, and why the others are left alone.

    Raises:
        UsageError: If there is no such kind.
    """
    if unknown := set(scope) - {*SCOPE, "query-heads", "head-width"}:
        raise UsageError(f"{rule}: there is no kind {', '.join(sorted(unknown))}")
    wanted = [group for group in groups_of(study.coupling) if group.kind in scope]
    refusals = [Refusal(rule, group.name, group.reason) for group in wanted if group.reason]
    free = [group for group in wanted if not group.reason and group.size > 1]
    return [group for group in free if not study.ctx.is_excluded(group.name)], tuple(refusals)


def lanes_of(ctx: PassContext) -> int:
    """Floats in a vector register of the target."""
    return LANES if ctx.target is None else max(1, ctx.target.vector_bits // FLOAT_BITS)
