"""The pass `allocate-bits`: a number format for every layer, chosen by a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from effc.ir.errors import DataError, Refusal
from effc.ir.program import FORWARD, Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.allocation import (
    ONLY_LINEAR,
    Offer,
    Rest,
    allowed,
    average,
    described,
    share_of_operations,
    writable,
)
from effc.passes.bits.bfloat16 import attention_names
from effc.passes.bits.forms import CODE_BITS, FLOAT, FLOAT_BITS, Form
from effc.passes.bits.granularity import Granularity, joined, together
from effc.passes.bits.layers import Wanted, layer_names, select
from effc.passes.bits.metrics.automatic import predicted
from effc.passes.bits.metrics.parts import Part, parts_of
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.refining import Measurement, refined_plan
from effc.passes.bits.writing import Writing
from effc.passes.calibrate.synthetic import Synthetic, synthesised
from effc.passes.plan.bisection import limits_along
from effc.passes.plan.model import Infeasible, Limit, Plan, Problem, Unit
from effc.passes.plan.solver import solve

RULE = "allocate-bits"
BLIND = "weight-error"


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Mixed precision: which layers take which format, so that the model loses least.

    Every weight is offered the formats in `bits` it can be written in; a metric predicts what each
    costs, and a solver picks one per weight within the context's limits and `average_bits`. What is
    chosen is written by `quantize` and `quantize-weights` under per-layer rules. If no choice keeps
    a limit, the nearest one is made, and the notes name the limit and the value. Without
    calibration data, data made from the model take its place, and the notes say so; activations
    then get their scales at run time.

    Attributes:
        metric: Predicts the loss; `auto` takes the one that orders a few measured configurations
            best.
        solver: Makes the choice.
        bits: Formats: `float`; `8`, weights and activations; `2` to `7`, in groups for linear
            layers and with a scale per channel (`w4a8c`) for all others; for linear layers
            `ternary` or such as `w4a8g64`. A rule `bits=` for a layer leaves it one format.
        granularity: What takes one format: a `layer`, a whole `block` of them, or an `expert`.
        group: Weights that share a scale, for formats below 8 bits that name none; 0 for a row.
        activations: What weights below 8 bits multiply, for formats that do not say.
        average_bits: The largest average of the bits of a weight; none for no limit.
        bit_operations: The largest sum of multiply-adds times the bits of both factors, as a share
            of that with the widest formats on offer; none for no limit.
        rounding: How weights below 8 bits are rounded, as in `quantize-weights`; of simulated ones
            `nearest`, `clipped`, `hqq`, `awq`, `gptq` or `gptq-act-order`. Losses are predicted for
            rounding to nearest.
        simulate: Whether weights below 8 bits are rounded but stay in float, whatever kind of layer
            reads them; nothing becomes smaller.
        refine: Rounds of exchanges, each measured on data that no metric saw; 0 for none.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("bits",)
    metric: str = "augmented-hessian"
    solver: str = "ilp"
    bits: tuple[str, ...] = ("float", "8", "6", "5", "4", "3", "2")
    granularity: Granularity = "layer"
    group: int = 32
    activations: Literal["int8", "float32"] = "int8"
    average_bits: float | None = None
    bit_operations: float | None = None
    rounding: str = "nearest"
    simulate: bool = False
    refine: int = 0

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Offer, choose, write."""
        check_patterns(ctx, [*layer_names(program), *attention_names(program)])
        Writing(self.rounding, self.simulate)
        selection = select(program, FORWARD, replace(ctx, rules=()), Wanted())
        parts = parts_of(program, selection.layers)
        if not parts:
            return Outcome(False, {"layers": {}}, selection.refusals)
        study, notes = self._study(program, parts, ctx)
        offers, said = self._offers(study)
        notes |= said
        rest = Rest.of(program, parts, ctx.timing)
        members = together(
            [offer.unit(offer.work(program, ctx)) for offer in offers], self.granularity
        )
        problem = self._problem(members, offers, rest, ctx)
        answer = solve(problem, self.solver, ctx.rng(RULE))
        if isinstance(answer, Plan) and self.refine and study.ctx.calibration is not None:
            measured = Measurement(study, {one.part: one.by_name() for one in offers}, members)
            found = refined_plan(problem, answer, measured, self.refine)
            answer, notes["refined"] = found.plan, found.to_json()
            del measured
        del study  # with its sample: writing takes memory of its own
        plan = answer.plan if isinstance(answer, Infeasible) else answer
        formats = {own.name: plan.choices[name] for name, units in members.items() for own in units}
        chosen = {offer.part: offer.by_name()[formats[offer.part.name]] for offer in offers}
        layers = described(problem, plan, members)
        if isinstance(answer, Infeasible):
            notes["infeasible"] = rest.explained(answer)
        sizes = [int(one.at_most) + rest.nbytes for one in limits_along(problem, "nbytes")]
        facts = plan_note(plan, problem.limits, offers[0].metric, sizes, rest)
        notes |= {"plan": facts, "layers": layers}
        changed, refusals = self._written(program, parts, chosen, ctx, layers)
        return Outcome(changed, notes, refusals)

    def uniform(self, form: str) -> "AllocateBits":
        """A plan that offers one format and looks at no data for it, such as to take times."""
        return AllocateBits(
            metric=BLIND, bits=(form,), granularity=self.granularity, group=self.group,
            activations=self.activations, simulate=self.simulate,
        )  # fmt: skip

    def _written(
        self,
        program: Program,
        parts: Sequence[Part],
        chosen: dict[Part, Form],
        ctx: PassContext,
        layers: dict[str, dict[str, Any]],
    ) -> tuple[bool, tuple[Refusal, ...]]:
        """Write formats; notes on the layers gain what was written.

        Returns:
            Whether the program changed, and what was left alone.
        """
        written = Writing(self.rounding, self.simulate).write(Study(program, parts, ctx), chosen)
        for name, note in written.notes["layers"].items():
            layers[name] = {**layers.get(name.partition("#")[0], {}), **note}
        planned = {name for part in parts for name in part.members}
        others = [one for one in written.refusals if one.source not in planned]
        return written.changed, (*others, *self._left(parts, chosen, ctx))

    def _study(
        self, program: Program, parts: Sequence[Part], ctx: PassContext
    ) -> tuple[Study, dict[str, Any]]:
        """A study of the parts, on data made from the model where there is none."""
        if ctx.calibration is not None or self.metric == BLIND:
            return Study(program, parts, ctx), {}
        made = synthesised(program, ctx) if ctx.substitute is None else ctx.substitute()
        how = made.how if isinstance(made, Synthetic) else "data made for it"
        study = Study(program, parts, replace(ctx, calibration=made))
        try:
            usable = bool(study.sample)
        except DataError:  # such as the logarithm of a negative number
            usable = False
        if usable:
            return study, {"data": f"there is no calibration data; in its place: {how}"}
        return Study(program, parts, ctx), {}

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

    def _problem(
        self,
        members: dict[str, list[Unit]],
        offers: Sequence[Offer],
        rest: Rest,
        ctx: PassContext,
    ) -> Problem:
        units = tuple(joined(name, own) for name, own in members.items())
        return Problem(units, tuple(self._limits(units, [one.part for one in offers], rest, ctx)))

    def _limits(
        self, units: Sequence[Unit], parts: Sequence[Part], rest: Rest, ctx: PassContext
    ) -> list[Limit]:
        """What a plan has to keep, about the parts."""
        limits = [rest.about_parts(limit) for limit in ctx.limits]
        if self.average_bits is not None:
            limits.append(average(self.average_bits, parts))
        if self.bit_operations is not None:
            limits.append(share_of_operations(self.bit_operations, units))
        return limits


def plan_note(
    plan: Plan, limits: Sequence[Limit], metric: str, sizes: Sequence[int], rest: Rest
) -> dict[str, Any]:
    """Totals, limits, and the sizes worth asking for.

    Args:
        plan: The choice.
        limits: About its units.
        metric: What predicted losses.
        sizes: Bytes of all weights.
        rest: What is in no unit.
    """
    said = [{"resource": one.resource, "at_most": one.at_most, "text": one.text}
            for one in limits]  # fmt: skip
    facts = {name: value for name, value in plan.to_json().items() if name != "choices"}
    others = {"other_nbytes": rest.nbytes, "other_seconds": rest.seconds}
    return {**facts, "metric": metric, "limits": said, **others, "sizes": list(sizes)}
