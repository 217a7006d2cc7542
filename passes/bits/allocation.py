"""Units, options and estimates of number formats: what allocation hands to the planner."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from effc.ir.cost import node_cost, typical_sizes
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.bits.forms import CODE_BITS, FLOAT, Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.quantize_weights import checked
from effc.passes.plan.bisection import Upgrade, upgrades_along
from effc.passes.plan.model import (
    Estimate,
    Infeasible,
    Limit,
    Option,
    Plan,
    Problem,
    Resource,
    Unit,
)
from effc.passes.plan.timing import MEASURED, MODELLED, Rates, Timing

ONLY_LINEAR = (
    "zero points, ternary planes and activations in float go with weights that linear layers alone "
    "read"
)


@dataclass(frozen=True)
class Offer:
    """A part with the formats it may take and what each is expected to lose.

    Attributes:
        part: The weight and its layers.
        losses: Predicted loss by format, in the order of preference.
        metric: What predicted it.
    """

    part: Part
    losses: Mapping[Form, float]
    metric: str

    def by_name(self) -> dict[str, Form]:
        """The formats by the names of the unit's options."""
        return {str(form): form for form in self.losses}

    def work(self, program: Program, ctx: PassContext) -> "Work":
        """What the layers of the part do in the program as it is."""
        sizes = {**typical_sizes(program), **ctx.sizes}
        costs = [node_cost(program, layer.node).at(sizes) for layer in self.part.products]
        macs = [cost["macs"] for cost in costs]
        moved = sum(cost["read_nbytes"] + cost["written_nbytes"] for cost in costs)
        moved -= len(costs) * FLOAT.nbytes(self.part.weight.shape)
        rates = Rates.of(ctx.target or Target.parse("native"))
        return Work(tuple(macs), moved, rates, ctx.timing)

    def unit(self, work: "Work", shape: torch.Size | None = None, share: float = 1.0) -> Unit:
        """The part as a unit of a plan.

        Args:
            work: Of the part.
            shape: Of the weight once it is cut; None for all of it.
            share: Of the multiply-adds that the cut leaves.
        """
        shape = self.part.weight.shape if shape is None else shape
        options = tuple(
            Option(str(form), self._estimate(form, loss, work, shape, share))
            for form, loss in self.losses.items()
        )
        return Unit(self.part.name, options, self.part.members)

    def _estimate(
        self, form: Form, loss: float, work: "Work", shape: torch.Size, share: float
    ) -> Estimate:
        nbytes, macs = form.nbytes(shape), sum(work.macs) * share
        timing = work.timing
        measured = timing.of(self.part.members, str(form)) if timing is not None else None
        precision = "int8" if form.activation == CODE_BITS else "float32"
        return Estimate(
            loss=loss,
            nbytes=nbytes,
            weight_bits=shape.numel() * form.weight_bits,
            bit_operations=macs * form.weight_bits * form.activation,
            seconds=work.rates.seconds(macs, nbytes + work.moved * share, precision)
            if measured is None
            else measured * share,
            sources={
                "loss": self.metric,
                "nbytes": "counted",
                "bit_operations": "counted",
                "seconds": MODELLED if measured is None else MEASURED,
            },
        )


@dataclass(frozen=True)
class Work:
    """What the layers of a part do.

    Attributes:
        macs: Multiply-adds of each product.
        moved: Bytes read and written besides the weight.
        rates: Of the target.
        timing: Measured times, where there are any.
    """

    macs: tuple[int, ...]
    moved: int
    rates: Rates
    timing: Timing | None


def allowed(
    part: Part, forms: Sequence[Form], parse: Callable[[str], Form], ctx: PassContext
) -> list[Form]:
    """The formats a part may take: those of the option, or the one a per-layer rule sets.

    Args:
        part: The weight and its layers.
        forms: From the pass's option.
        parse: Reads a format of a rule.
        ctx: For its rules.

    Raises:
        UsageError: If rules for layers of one weight disagree.
    """
    asked = {ctx.options_for(name).get("bits") for name in part.members} - {None}
    if len(asked) > 1:
        several = " and ".join(f"bits={one}" for one in sorted(map(str, asked)))
        raise UsageError(f"rules ask for {several} of {part.name}, whose layers share one weight")
    return [parse(str(text)) for text in asked] or list(forms)


def writable(part: Part, forms: Sequence[Form], ctx: PassContext) -> list[Form]:
    """Those of some formats that a part can be written in.

    Raises:
        UsageError: If a per-layer rule asks for one it cannot be written in, or there are no such
            groups.
    """
    for form in forms:
        if form.is_grouped:
            checked(form.stored(), f"format {form}")
    possible = [_for_part(form, part) for form in forms]
    found = list(dict.fromkeys(form for form in possible if form is not None))
    if not found and any("bits" in ctx.options_for(name) for name in part.members):
        raise UsageError(f"{forms[0]} for {part.name}: {ONLY_LINEAR}; set bits=float or 8 for it")
    return found


def _for_part(form: Form, part: Part) -> Form | None:
    """The form, or for what no linear layer alone reads that of as many bits per channel."""
    if not form.is_grouped or part.is_linear:
        return form
    is_integer = form.scheme == "int" and form.symmetric and form.activation == CODE_BITS
    return form.per_channel() if is_integer else None


def described(
    problem: Problem, plan: Plan, members: Mapping[str, Sequence[Unit]]
) -> dict[str, dict[str, object]]:
    """What the report says of every layer: format, loss, bytes, time, and what would change it.

    The runner-up is what the layer takes with more of the scarcest resource for all units together
    (bytes if there is no limit), from `changes_at_nbytes`, `changes_at_seconds` or such on, along
    the greedy path.

    Args:
        problem: What was decided.
        plan: The choice.
        members: The units of single weights that each of the problem's units is made of.
    """
    resource = scarcest(problem, plan)
    spent = plan.totals[resource]
    later: dict[str, Upgrade] = {}
    for step in upgrades_along(problem, resource):
        if step.total > spent and step.option != plan.choices[step.unit]:
            later.setdefault(step.unit, step)
    notes: dict[str, dict[str, object]] = {}
    for whole, unit in [(one.name, own) for one in problem.units for own in members[one.name]]:
        option = unit.option(plan.choices[whole])
        note: dict[str, object] = {
            "format": option.name,
            "predicted_loss": option.estimate.loss,
            "nbytes": int(option.estimate.nbytes),
            "seconds": option.estimate.seconds,
            "seconds_from": option.estimate.sources.get("seconds", ""),
        }
        if whole in later:
            step = later[whole]
            note["runner_up"] = step.option
            note["runner_up_loss"] = unit.option(step.option).estimate.loss
            is_whole = resource != "seconds"
            note[f"changes_at_{resource}"] = int(step.total) if is_whole else step.total
        notes |= dict.fromkeys(unit.layers, note)
    return notes


def scarcest(problem: Problem, plan: Plan) -> Resource:
    """The limited resource of which a plan uses the largest share; bytes if there is no limit."""
    shares = {one.resource: plan.totals[one.resource] / one.at_most if one.at_most > 0 else 2.0
              for one in problem.limits}  # fmt: skip
    return max(shares, key=lambda name: shares[name]) if shares else "nbytes"


def average(limit_bits: float, parts: Sequence[Part]) -> Limit:
    """A limit on the average bits of a weight."""
    count = sum(part.weight.numel() for part in parts)
    return Limit("weight_bits", limit_bits * count, f"average_bits={limit_bits:g}")


def share_of_operations(share: float, units: Sequence[Unit]) -> Limit:
    """A limit on bit operations as a share of those with the widest formats on offer."""
    macs = sum(max(o.estimate.bit_operations for o in unit.options) for unit in units)
    return Limit("bit_operations", share * macs, f"bit_operations={share:g}")


@dataclass(frozen=True)
class Rest:
    """What a program takes besides the parts a plan is about.

    Attributes:
        nbytes: Of weights.
        seconds: As far as it was measured.
    """

    nbytes: int
    seconds: float

    @classmethod
    def of(cls, program: Program, parts: Sequence[Part], timing: Timing | None) -> "Rest":
        """Biases, norms, what is left alone."""
        held = sum(FLOAT.nbytes(part.weight.shape) for part in parts)
        names = [name for part in parts for name in part.members]
        seconds = timing.rest(names) if timing is not None else 0.0
        return cls(program.weight_nbytes - held, seconds)

    def about_parts(self, limit: Limit) -> Limit:
        """A limit on the whole program as one on the parts."""
        return replace(limit, at_most=limit.at_most - self._of(limit.resource))

    def explained(self, answer: Infeasible) -> str:
        """Which limit no plan keeps, counted over the whole program as the user set it."""
        added = self._of(answer.binding.resource)
        whole = replace(answer.binding, at_most=answer.binding.at_most + added)
        return str(replace(answer, binding=whole, nearest=answer.nearest + added))

    def _of(self, resource: Resource) -> float:
        return {"nbytes": self.nbytes, "seconds": self.seconds}.get(resource, 0)
