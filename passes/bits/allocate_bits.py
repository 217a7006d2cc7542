"""The pass `allocate-bits`: a number format for every layer, chosen by a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any, ClassVar

import torch

from effc.ir.edit import Editor
from effc.ir.program import FORWARD, Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.allocation import (
    Offer,
    about_parts,
    allowed,
    average,
    described,
    explained,
    other_nbytes,
)
from effc.passes.bits.bfloat16 import attention_names
from effc.passes.bits.forms import INT8, Form
from effc.passes.bits.layers import Wanted, layer_names, select
from effc.passes.bits.metrics.automatic import predicted
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.second_moments import moments_of
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.quantize import Quantize
from effc.passes.bits.rounding.strategies import Rounding, needs_moments, rounded_weight
from effc.passes.plan.bisection import limits_along
from effc.passes.plan.model import Infeasible, Plan, Problem
from effc.passes.plan.solver import solve

RULE = "allocate-bits"


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Mixed precision: which layers take which format, so that the model loses least.

    Every weight is offered the formats in `bits`; a metric predicts what each costs, and a solver
    picks one per weight within the context's limits and `average_bits`. What is chosen is written
    by `quantize` under per-layer rules. If no choice keeps a limit, the nearest one is made, and
    the notes name the limit and the value.

    Attributes:
        metric: Predicts the loss; `auto` takes the one that orders a few measured configurations
            best.
        solver: Makes the choice.
        bits: Formats: `float`, `8` (weights and activations), and with `simulate` `2` to `7`
            (weights only) or such as `w4a8g64`. A rule `bits=` for a layer leaves it one format.
        group: Weights that share a scale, for formats below 8 bits that name none.
        average_bits: The largest average of the bits of a weight; none for no limit.
        rounding: How simulated weights are rounded; `awq`, `gptq` and `gptq-act-order` need
            calibration data. Losses are predicted for rounding to nearest.
        simulate: Whether formats other than `8` may be chosen; such weights are rounded but stay in
            float, so nothing becomes smaller.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("bits",)
    metric: str = "sqnr"
    solver: str = "ilp"
    bits: tuple[str, ...] = ("float", "8")
    group: int = 32
    average_bits: float | None = None
    rounding: Rounding = "nearest"
    simulate: bool = False

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Offer, choose, write."""
        check_patterns(ctx, [*layer_names(program), *attention_names(program)])
        forms = [Form.parse(text, self.group) for text in dict.fromkeys(self.bits)]
        selection = select(program, FORWARD, replace(ctx, rules=()), Wanted())
        parts = parts_of(program, selection.layers)
        if not parts:
            return Outcome(False, {"layers": {}}, selection.refusals)
        study = Study(program, parts, ctx)
        offers, notes = self._offers(study, forms)
        problem = self._problem(program, offers, ctx)
        answer = solve(problem, self.solver, ctx.rng(RULE))
        plan = answer.plan if isinstance(answer, Infeasible) else answer
        chosen = {
            offer.part: next(f for f in offer.losses if str(f) == plan.choices[offer.part.name])
            for offer in offers
        }
        layers = described(problem, plan)
        rest = other_nbytes(program, parts)
        if isinstance(answer, Infeasible):
            notes["infeasible"] = explained(answer, rest)
        written = self._written(study, chosen)
        for name, note in written.notes.get("layers", {}).items():
            layers[name] = {**layers.get(name.partition("#")[0], {}), **note}
        notes |= {"plan": _plan_note(problem, plan, offers[0].metric, rest), "layers": layers}
        planned = {name for part in parts for name in part.members}
        others = [one for one in written.refusals if one.source not in planned]
        return Outcome(written.changed, notes, tuple(others))

    def _offers(self, study: Study, forms: Sequence[Form]) -> tuple[list[Offer], dict[str, Any]]:
        choices = {
            part: allowed(part, forms, study.ctx, written=not self.simulate) for part in study.parts
        }
        every = list(dict.fromkeys(form for chosen in choices.values() for form in chosen))
        losses, metric, notes = predicted(study, self.metric, every)
        offers = [
            Offer(part, {form: losses[part.name][every.index(form)] for form in chosen}, metric)
            for part, chosen in choices.items()
        ]
        return offers, notes

    def _written(self, study: Study, chosen: dict[Part, Form]) -> Outcome:
        """Write what was chosen: rounded weights first, then codes under per-layer rules."""
        simulated = {p: f for p, f in chosen.items() if not f.is_float and f != INT8}
        with_data = needs_moments(self.rounding)
        rounded = {
            part: rounded_weight(
                part, form, self.rounding, moments_of(study, part) if with_data else None
            )
            for part, form in simulated.items()
        }
        editor = Editor(study.program, FORWARD, RULE)
        for part, weight in rounded.items():
            _simulate(editor, part, weight)
        is_changed = editor.finish()
        names = [name for part, form in chosen.items() if form != INT8 for name in part.members]
        rules = tuple((escape(name), {"bits": "float"}) for name in names)
        outcome = Quantize().run(study.program, replace(study.ctx, rules=rules))
        return replace(outcome, changed=outcome.changed or is_changed)

    def _problem(self, program: Program, offers: Sequence[Offer], ctx: PassContext) -> Problem:
        parts = [offer.part for offer in offers]
        rest = other_nbytes(program, parts)
        limits = [about_parts(limit, rest) for limit in ctx.limits]
        if self.average_bits is not None:
            limits.append(average(self.average_bits, parts))
        return Problem(tuple(offer.unit(program) for offer in offers), tuple(limits))


def _plan_note(problem: Problem, plan: Plan, metric: str, rest: int) -> dict[str, Any]:
    """Totals, limits, and all sizes at which the choice changes, with the predicted loss there.

    Args:
        problem: What was decided.
        plan: The choice.
        metric: What predicted losses.
        rest: Bytes of weights that are in no unit.
    """
    limits = [{"resource": one.resource, "at_most": one.at_most, "text": one.text}
              for one in problem.limits]  # fmt: skip
    facts = {name: value for name, value in plan.to_json().items() if name != "choices"}
    sizes = [int(one.at_most) + rest for one in limits_along(problem, "nbytes")]
    return {**facts, "metric": metric, "limits": limits, "other_nbytes": rest, "sizes": sizes}


def _simulate(editor: Editor, part: Part, rounded: torch.Tensor) -> None:
    """Let everything read the rounded weight."""
    for source in part.sources:
        made = editor.weight(f"{source.target}_rounded", rounded, like=source)
        editor.replace(source, made)
