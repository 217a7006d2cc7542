"""Units, options and estimates of number formats: what allocation hands to the planner."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from effc.ir.cost import node_cost, typical_sizes
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.passes.base import PassContext
from effc.passes.bits.forms import FLOAT, Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.quantize_weights import checked
from effc.passes.plan.bisection import Upgrade, upgrades_along
from effc.passes.plan.model import Estimate, Infeasible, Limit, Option, Plan, Problem, Unit

ONLY_LINEAR = "low-bit weights are for weights that linear layers alone read"


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

    def unit(self, program: Program) -> Unit:
        """The part as a unit of a plan."""
        sizes = typical_sizes(program)
        nodes = [layer.node for layer in self.part.products]
        macs = sum(node_cost(program, node).at(sizes)["macs"] for node in nodes)
        options = tuple(
            Option(str(form), self._estimate(form, loss, macs))
            for form, loss in self.losses.items()
        )
        return Unit(self.part.name, options, self.part.members)

    def _estimate(self, form: Form, loss: float, macs: int) -> Estimate:
        weight = self.part.weight
        return Estimate(
            loss=loss,
            nbytes=form.nbytes(weight.shape),
            weight_bits=weight.numel() * form.weight_bits,
            bit_operations=macs * form.weight_bits * form.activation,
            sources={"loss": self.metric, "nbytes": "counted", "bit_operations": "counted"},
        )


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
    found = [form for form in forms if not form.is_grouped or part.is_linear]
    if not found and any("bits" in ctx.options_for(name) for name in part.members):
        raise UsageError(f"{forms[0]} for {part.name}: {ONLY_LINEAR}; set bits=float or 8 for it")
    return found


def described(problem: Problem, plan: Plan) -> dict[str, dict[str, object]]:
    """What the report says of every layer: format, predicted loss, bytes, and what would change it.

    The runner-up is what the layer takes with more bytes for all units together, from
    `changes_at_nbytes` on, along the greedy path.
    """
    spent = plan.totals["nbytes"]
    later: dict[str, Upgrade] = {}
    for step in upgrades_along(problem, "nbytes"):
        if step.total > spent and step.option != plan.choices[step.unit]:
            later.setdefault(step.unit, step)
    notes: dict[str, dict[str, object]] = {}
    for unit in problem.units:
        option = unit.option(plan.choices[unit.name])
        note: dict[str, object] = {
            "format": option.name,
            "predicted_loss": option.estimate.loss,
            "nbytes": int(option.estimate.nbytes),
        }
        if unit.name in later:
            step = later[unit.name]
            note["runner_up"] = step.option
            note["runner_up_loss"] = unit.option(step.option).estimate.loss
            note["changes_at_nbytes"] = int(step.total)
        notes |= dict.fromkeys(unit.layers, note)
    return notes


def average(limit_bits: float, parts: Sequence[Part]) -> Limit:
    """A limit on the average bits of a weight."""
    count = sum(part.weight.numel() for part in parts)
    return Limit("weight_bits", limit_bits * count, f"average_bits={limit_bits:g}")


def other_nbytes(program: Program, parts: Sequence[Part]) -> int:
    """Bytes of a program's weights that no part holds: biases, norms, what is left alone."""
    return program.weight_nbytes - sum(FLOAT.nbytes(part.weight.shape) for part in parts)


def about_parts(limit: Limit, rest: int) -> Limit:
    """A limit on all weights as one on those of the parts; other resources as they are."""
    return replace(limit, at_most=limit.at_most - rest) if limit.resource == "nbytes" else limit


def explained(answer: Infeasible, rest: int) -> str:
    """Which limit no plan keeps, counted over all weights as the user set it."""
    if answer.binding.resource != "nbytes":
        return str(answer)
    whole = replace(answer.binding, at_most=answer.binding.at_most + rest)
    return str(replace(answer, binding=whole, nearest=answer.nearest + rest))
