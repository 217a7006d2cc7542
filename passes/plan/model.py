"""Units, options, estimates, limits, plans: what a family of passes offers and a solver answers.

A family does not decide. It describes the parts of a program that one decision covers (`Unit`) and
what can be done to each (`Option`, with an `Estimate` of what that costs); `Problem` adds what must
hold, and a solver gives a `Plan`, or says with `Infeasible` which limit cannot be kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from effc.ir.errors import UsageError

Resource = Literal["loss", "nbytes", "weight_bits", "bit_operations", "seconds"]
ROUNDING = 1e-12
RESOURCES: tuple[Resource, ...] = ("loss", "nbytes", "weight_bits", "bit_operations", "seconds")
UNITS_OF: dict[Resource, str] = {
    "loss": "predicted loss",
    "nbytes": "bytes",
    "weight_bits": "bits of weights",
    "bit_operations": "bit operations",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Estimate:
    """What an option is expected to cost; sums over units are those of a plan.

    Attributes:
        loss: Increase of the task's loss, in the units of whatever predicted it.
        nbytes: Bytes on disk of everything the unit stores.
        weight_bits: Bits of its weights, without scales; for limits on average bits.
        bit_operations: Multiply-adds times the bits of both factors.
        seconds: Time of one run.
        sources: Where a number came from, by resource: `measured`, `modelled`, a metric's name.
    """

    loss: float = 0.0
    nbytes: float = 0.0
    weight_bits: float = 0.0
    bit_operations: float = 0.0
    seconds: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def of(self, resource: Resource) -> float:
        """The number of a resource."""
        return float(getattr(self, resource))

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {**{name: self.of(name) for name in RESOURCES}, "sources": dict(self.sources)}


@dataclass(frozen=True)
class Option:
    """One thing that can be done to a unit.

    Attributes:
        name: What the report calls it, such as `int4 group=32` or `float32`.
        estimate: What it costs.
        settings: What the pass that applies it needs to know, such as `{"bits": "4"}`.
    """

    name: str
    estimate: Estimate
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """A part of the program that one decision covers.

    Attributes:
        name: In the user's model, such as `encoder.layer.3.attention.query`.
        options: At least one, with different names.
        members: Names of the layers it covers where they are not just `name`.
    """

    name: str
    options: tuple[Option, ...]
    members: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers the decision is about."""
        return self.members or (self.name,)

    def option(self, name: str) -> Option:
        """The option of a name.

        Raises:
            KeyError: If there is none.
        """
        for one in self.options:
            if one.name == name:
                return one
        raise KeyError(f"{self.name} has no option {name!r}")


@dataclass(frozen=True)
class Limit:
    """What the total of a plan may be.

    Attributes:
        resource: Of what.
        at_most: The largest total allowed.
        text: What the user wrote, such as `--max-size 20%`.
    """

    resource: Resource
    at_most: float
    text: str = ""

    def holds(self, total: float) -> bool:
        """Whether a total is allowed; the last digits, which depend on the order, do not count."""
        return total <= self.at_most + ROUNDING * abs(self.at_most)

    def __str__(self) -> str:
        said = f" ({self.text})" if self.text else ""
        return f"at most {self.at_most:,.6g} {UNITS_OF[self.resource]}{said}"


@dataclass(frozen=True)
class Problem:
    """Which option each unit takes, so that limits hold and the objective is least.

    Attributes:
        units: With different names.
        limits: All of them must hold.
        objective: What to make small.

    Raises:
        UsageError: If there is nothing to decide, names repeat, or a number is not finite.
    """

    units: tuple[Unit, ...]
    limits: tuple[Limit, ...] = ()
    objective: Resource = "loss"

    def __post_init__(self) -> None:
        """Check the numbers once, so that solvers need not."""
        if not self.units:
            raise UsageError("there is nothing to decide: no unit has an option")
        if len({unit.name for unit in self.units}) != len(self.units):
            raise UsageError("two units of a plan have the same name")
        for unit in self.units:
            _check_unit(unit)
        for limit in self.limits:
            if not math.isfinite(limit.at_most):
                raise UsageError(f"a limit of {limit.at_most} {UNITS_OF[limit.resource]} is none")


def _check_unit(unit: Unit) -> None:
    if not unit.options:
        raise UsageError(f"{unit.name} has no option; there must be one that leaves it alone")
    if len({option.name for option in unit.options}) != len(unit.options):
        raise UsageError(f"{unit.name} has two options of the same name")
    for option in unit.options:
        for resource in RESOURCES:
            if not math.isfinite(option.estimate.of(resource)):
                raise UsageError(
                    f"{unit.name}, option {option.name}: {UNITS_OF[resource]} are "
                    f"{option.estimate.of(resource)}, not a number to plan with"
                )


@dataclass(frozen=True)
class Plan:
    """One option per unit.

    Attributes:
        choices: Name of the option by name of the unit.
        totals: Sum of the estimates by resource.
        solver: What found it.
        bound: No plan has a smaller objective than this, as far as the solver can tell; None where
            it cannot.
    """

    choices: Mapping[str, str]
    totals: Mapping[str, float]
    solver: str
    bound: float | None = None

    def keeps(self, limits: tuple[Limit, ...]) -> bool:
        """Whether the totals are within all limits."""
        return all(limit.holds(self.totals[limit.resource]) for limit in limits)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "choices": dict(self.choices),
            "totals": dict(self.totals),
            "solver": self.solver,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Infeasible:
    """No plan keeps all limits.

    Attributes:
        binding: The limit that stands in the way: of all limits, the one that has to give least,
            in proportion, when the others are kept.
        nearest: What it would have to be.
        plan: The plan of that value; keeps all other limits.
    """

    binding: Limit
    nearest: float
    plan: Plan

    def __str__(self) -> str:
        unit = UNITS_OF[self.binding.resource]
        return (
            f"no plan has {self.binding}: the nearest feasible value is {self.nearest:,.6g} {unit}"
        )


def plan_of(
    problem: Problem, choices: Mapping[str, str], solver: str, bound: float | None = None
) -> Plan:
    """A plan from the names of the options chosen."""
    chosen = [unit.option(choices[unit.name]).estimate for unit in problem.units]
    totals: dict[str, float] = {
        name: math.fsum(one.of(name) for one in chosen) for name in RESOURCES
    }
    return Plan(dict(choices), totals, solver, bound)
