"""The pass `allocate-bits`: a number format for every layer, chosen by a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from effc.ir.errors import Refusal
from effc.ir.program import FORWARD, Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.allocation import (
    ONLY_LINEAR,
    Offer,
    about_parts,
    allowed,
    average,
    described,
    explained,
    other_nbytes,
    writable,
)
from effc.passes.bits.bfloat16 import attention_names
from effc.passes.bits.forms import CODE_BITS, FLOAT, FLOAT_BITS, Form
from effc.passes.bits.layers import Wanted, layer_names, select
from effc.passes.bits.metrics.automatic import predicted
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.writing import Writing
from effc.passes.plan.bisection import limits_along
from effc.passes.plan.model import Infeasible, Plan, Problem
from effc.passes.plan.solver import solve

RULE = "allocate-bits"


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Mixed precision: which layers take which format, so that the model loses least.

    Every weight is offered the formats in `bits` it can be written in; a metric predicts what each
    costs, and a solver picks one per weight within the context's limits and `average_bits`. What is
    chosen is written by `quantize` and `quantize-weights` under per-layer rules. If no choice keeps
    a limit, the nearest one is made, and the notes name the limit and the value.

    Attributes:
        metric: Predicts the loss; `auto` takes the one that orders a few measured configurations
            best.
        solver: Makes the choice.
        bits: Formats: `float`; `8`, weights and activations; for linear layers `2` to `7` and
            `ternary`, or such as `w4a8g64`. A rule `bits=` for a layer leaves it one format.
        group: Weights that share a scale, for formats below 8 bits that name none; 0 for a row.
        activations: What weights below 8 bits multiply, for formats that do not say.
        average_bits: The largest average of the bits of a weight; none for no limit.
        rounding: How weights below 8 bits are rounded, as in `quantize-weights`; of simulated ones
            `nearest`, `clipped`, `hqq`, `awq`, `gptq` or `gptq-act-order`. Losses are predicted for
            rounding to nearest.
        simulate: Whether weights below 8 bits are rounded but stay in float, whatever kind of layer
            reads them; nothing becomes smaller.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("bits",)
    metric: str = "output-divergence"
    solver: str = "ilp"
    bits: tuple[str, ...] = ("float", "8", "6", "5", "4", "3", "2")
    group: int = 32
    activations: Literal["int8", "float32"] = "int8"
    average_bits: float | None = None
    rounding: str = "nearest"
    simulate: bool = False

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Offer, choose, write."""
        check_patterns(ctx, [*layer_names(program), *attention_names(program)])
        writing = Writing(self.rounding, self.simulate)
        selection = select(program, FORWARD, replace(ctx, rules=()), Wanted())
        parts = parts_of(program, selection.layers)
        if not parts:
            return Outcome(False, {"layers": {}}, selection.refusals)
        study = Study(program, parts, ctx)
        offers, notes = self._offers(study)
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
        written = writing.write(study, chosen)
        for name, note in written.notes["layers"].items():
            layers[name] = {**layers.get(name.partition("#")[0], {}), **note}
        notes |= {"plan": _plan_note(problem, plan, offers[0].metric, rest), "layers": layers}
        planned = {name for part in parts for name in part.members}
        others = [one for one in written.refusals if one.source not in planned]
        return Outcome(written.changed, notes, (*others, *self._left(parts, chosen, ctx)))

    def form(self, text: str) -> Form:
        """A format of `bits` or of a rule."""
        is_whole = self.simulate or self.activations == "float32"
        return Form.parse(text, self.group, FLOAT_BITS if is_whole else CODE_BITS)

    def _choices(self, part: Part, ctx: PassContext) -> list[Form]:
        """The formats a part may take; a rule leaves one, float is always possible."""
        forms = [self.form(text) for text in dict.fromkeys(self.bits)]
        chosen = allowed(part, forms, self.form, ctx)
        return chosen if self.simulate else writable(part, chosen, ctx) or [FLOAT]

    def _offers(self, study: Study) -> tuple[list[Offer], dict[str, Any]]:
        choices = {part: self._choices(part, study.ctx) for part in study.parts}
        every = list(dict.fromkeys(form for chosen in choices.values() for form in chosen))
        losses, metric, notes = predicted(study, self.metric, every)
        offers = [
            Offer(part, {form: losses[part.name][every.index(form)] for form in chosen}, metric)
            for part, chosen in choices.items()
        ]
        return offers, notes

    def _left(
        self, parts: Sequence[Part], chosen: dict[Part, Form], ctx: PassContext
    ) -> list[Refusal]:
        """Weights that stay in float for want of a format they could take."""
        return [
            Refusal(RULE, part.name, f"none of its formats can be written: {ONLY_LINEAR}")
            for part in parts
            if chosen[part].is_float and FLOAT not in allowed(part, self._forms, self.form, ctx)
        ]

    @property
    def _forms(self) -> list[Form]:
        return [self.form(text) for text in dict.fromkeys(self.bits)]

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
