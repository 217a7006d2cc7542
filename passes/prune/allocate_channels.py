"""The pass `allocate-channels`: how many channels stay and in which formats, in one plan."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.cutting import cut
from effc.ir.coupling.groups import Group
from effc.ir.coupling.kept import Kept
from effc.ir.errors import Refusal, UsageError
from effc.ir.program import FORWARD, Program
from effc.passes.base import Outcome, PassContext, check_patterns
from effc.passes.bits.allocate_bits import AllocateBits, plan_note
from effc.passes.bits.allocation import Rest, described
from effc.passes.bits.bfloat16 import attention_names
from effc.passes.bits.layers import Wanted, layer_names, select
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.study import Study
from effc.passes.plan.model import Infeasible, Plan, Problem, Unit
from effc.passes.prune.channels import REPAIRS, SCOPE, groups_to_cut, lanes_of
from effc.passes.prune.damage import cut_losses
from effc.passes.prune.importance.registry import importance_of
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.prune.mixing import REST, Choice, Mix, mixed
from effc.passes.prune.selection import kept_count, step_of

RULE = "allocate-channels"
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
SIZES = 32
METRICS = ("augmented-hessian", "output-divergence")  # in units of the divergence


@dataclass(frozen=True)
class AllocateChannels(AllocateBits):
    """Pruning and mixed precision in one plan: how many channels stay, and in which formats.

    As `allocate-bits`, and every group of channels, neurons, heads or hidden width is offered some
    counts it may keep. What one costs is measured: the divergence of the outputs with that group
    cut, after the layers that read it were fitted. The table of counts and formats is solved within
    the context's limits; channels go first, what is left of the weights is written in the formats
    chosen. With `bits=float` it prunes only. `metric` is one that predicts divergences.

    Attributes:
        importance: What says which channels of a group go first (`passes/prune/importance/`).
        align: Kept counts are multiples of this; the width of the target's vectors if None.
        scope: Kinds of groups, as in `prune-channels`.
        repair: How layers are fitted once the plan is made, as in `prune-channels`.
    """

    name: ClassVar[str] = RULE
    importance: str = "wanda"
    align: int | None = None
    scope: tuple[str, ...] = SCOPE
    repair: str = "sequential"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Offer, choose, repair, cut, write.

        Raises:
            UsageError: For an option that makes no sense.
            DataError: If there is no data the model can run on.
        """
        if self.repair not in ("none", *REPAIRS):
            known = ", ".join(("none", *REPAIRS))
            raise UsageError(f"{RULE}: there is no repair={self.repair}; there are: {known}")
        if self.metric not in METRICS:
            raise UsageError(
                f"{RULE}: metric={self.metric} does not predict what cuts are measured by; take "
                f"{' or '.join(METRICS)}"
            )
        if self.refine:
            raise UsageError(f"{RULE}: refine={self.refine} exchanges formats alone; leave it out")
        parts = self._parts(program, ctx)
        if not parts:
            return Outcome(False, {"layers": {}})
        study, notes = self._study(program, parts, ctx)
        scoring = Scoring(program, analyse(program), study.ctx, self.repair != "none")
        groups, refusals = groups_to_cut(scoring, self.scope, RULE)
        names = [*layer_names(program), *attention_names(program)]
        check_patterns(ctx, [*names, *(group.name for group in groups)])
        mix, said = self._mix(study, scoring, groups)
        rest = Rest.of(program, parts, ctx.timing)
        start = mix.problem(mix.start, ()).units
        limits = self._limits(start, parts, rest, ctx)
        answer, problem = mixed(mix, limits, self.solver, ctx.rng(RULE))
        plan = answer.plan if isinstance(answer, Infeasible) else answer
        notes |= said | self._plan_notes(mix, plan, problem, rest)
        if isinstance(answer, Infeasible):
            notes["infeasible"] = rest.explained(answer)
        is_cut = self._cut(scoring, mix, plan)
        changed, left = self._formatted(program, mix, plan, ctx, notes["layers"])
        return Outcome(is_cut or changed, notes, (*refusals, *left))

    def _parts(self, program: Program, ctx: PassContext) -> list[Part]:
        selection = select(program, FORWARD, replace(ctx, rules=()), Wanted())
        return parts_of(program, selection.layers)

    def _mix(
        self, study: Study, scoring: Scoring, groups: Sequence[Group]
    ) -> tuple[Mix, dict[str, Any]]:
        """All that is on offer, and what the report says of how it was judged."""
        offers, notes = self._offers(study)
        importance, lanes = importance_of(self.importance), self.align or lanes_of(study.ctx)
        orders, levels = [], []
        for group in groups:
            scores = importance.scores(scoring, group)
            orders.append(group.atoms[np.argsort(scores, kind="stable")])
            step = step_of(group, lanes)
            counts = {kept_count(group.size, share, step) for share in SHARES}
            levels.append(sorted({*counts, group.size}, reverse=True))
        key = f"{self.importance} {self.repair != 'none'}"
        losses = cut_losses(scoring, study, groups, orders, levels, key)
        choices = [
            Choice(name, group, order, dict(zip(counts, loss, strict=True)))
            for name, group, order, counts, loss in zip(
                _unit_names(groups), groups, orders, levels, losses, strict=True
            )
        ]
        works = [offer.work(study.program, study.ctx) for offer in offers]
        return Mix(scoring.coupling, choices, offers, works, self.granularity), notes

    def _plan_notes(self, mix: Mix, plan: Plan, problem: Problem, rest: Rest) -> dict[str, Any]:
        """Totals, limits, the sizes worth asking for; rows of layers and of groups."""
        formats = {unit.name: unit for unit in problem.units if unit.name in mix.members}
        members: dict[str, list[Unit]] = {unit.name: [] for unit in problem.units}
        counts = {unit.name: unit for unit in problem.units if unit.name not in formats}
        members |= {name: [replace(formats[name], members=_layers(mix, name))] for name in formats}
        members |= {name: [unit] for name, unit in counts.items() if name != REST}
        layers = described(problem, plan, members)
        rows = []
        for choice in mix.choices:
            note = layers.pop(choice.name)
            kept = int(str(note.pop("format")))
            what = {"name": choice.group.name, "kind": choice.group.kind}
            rows.append({**what, "size": choice.group.size, "kept": kept, **_numbers(note)})
        sizes = _sizes(mix, problem, rest)
        facts = plan_note(plan, problem.limits, mix.offers[0].metric, sizes, rest)
        return {"plan": facts, "layers": layers, "groups": rows}

    def _cut(self, scoring: Scoring, mix: Mix, plan: Plan) -> bool:
        """Fit and cut; whether anything went."""
        gone = mix.cut(plan.choices)
        if not len(gone):
            return False
        kept = Kept(scoring.coupling, gone)
        if self.repair != "none":
            REPAIRS[self.repair](scoring, kept)
        cut(scoring.program, kept, RULE)
        return True

    def _formatted(
        self, program: Program, mix: Mix, plan: Plan, ctx: PassContext, layers: dict[str, Any]
    ) -> tuple[bool, tuple[Refusal, ...]]:
        """Write what is left of the weights."""
        parts, chosen = self._parts(program, ctx), {}
        for name, places in mix.members.items():
            for offer in (mix.offers[at] for at in places):
                chosen[offer.part.name] = offer.by_name()[plan.choices[name]]
        formats = {part: chosen[part.name] for part in parts}
        return self._written(program, parts, formats, ctx, layers)


def _unit_names(groups: Sequence[Group]) -> list[str]:
    """`channels of conv1`, each once."""
    taken: Counter[str] = Counter()
    found = []
    for group in groups:
        name = f"{group.kind} of {group.name}"
        taken[name] += 1
        found.append(name if taken[name] == 1 else f"{name} #{taken[name]}")
    return found


def _layers(mix: Mix, name: str) -> tuple[str, ...]:
    return tuple(m for at in mix.members[name] for m in mix.offers[at].part.members)


def _numbers(note: dict[str, Any]) -> dict[str, Any]:
    """What the report says of a group besides its count; bytes and seconds are in its layers."""
    kept = {name: note[name] for name in note if name.startswith("changes_at_")}
    if "runner_up" in note:
        kept |= {"runner_up": int(note["runner_up"]), "runner_up_loss": note["runner_up_loss"]}
    return {"predicted_loss": note["predicted_loss"], **kept}


def _sizes(mix: Mix, problem: Problem, rest: Rest) -> list[int]:
    """Bytes worth asking for, from the smallest choice to nothing cut, in equal proportions."""
    smallest = {
        unit.name: min(unit.options, key=lambda o: o.estimate.nbytes).name
        for unit in problem.units
        if unit.name != REST
    }
    low, high = (mix.totals(one)["nbytes"] + rest.nbytes for one in (smallest, mix.start))
    return sorted({round(size) for size in np.geomspace(low, high, SIZES)})
