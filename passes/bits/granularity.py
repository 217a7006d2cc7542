"""What one decision covers: a layer, a whole block of layers, or an expert with its role.

Blocks and experts are read off module names: `encoder.layer.3.attention.query` is in the block
`encoder.layer.3`, `blocks.0.experts.5.up` in the expert `blocks.0.experts.5`, as in MC-MoE (Huang
et al., 2024, arXiv 2410.06270), whose experts take one width each. What is in none decides alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from effc.ir.errors import UsageError
from effc.passes.plan.model import RESOURCES, Estimate, Option, Resource, Unit

Granularity = Literal["layer", "block", "expert"]
EXPERTS = "experts"


def unit_name(layer: str, granularity: str) -> str:
    """The name of what decides for a layer.

    Raises:
        UsageError: If there is no such granularity.
    """
    if granularity not in get_args(Granularity):
        known = ", ".join(get_args(Granularity))
        raise UsageError(f"unknown granularity {granularity!r}; there are: {known}")
    if granularity == "layer":
        return layer
    words = layer.split(".")
    for at, word in enumerate(words[:-1]):
        is_number = word.isdecimal() and at > 0
        if is_number and (granularity == "block" or words[at - 1] == EXPERTS):
            return ".".join(words[: at + 1])
    return layer


def together(units: Sequence[Unit], granularity: str) -> dict[str, list[Unit]]:
    """Units by the name of what decides for them, in order; options differ in no group.

    Units of one block or expert that have other options than the first of it, such as tables,
    decide alone.
    """
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        name = unit_name(unit.name, granularity)
        first = groups.get(name, [unit])[0]
        names = [[option.name for option in one.options] for one in (first, unit)]
        groups.setdefault(name if names[0] == names[1] else unit.name, []).append(unit)
    return groups


def joined(name: str, units: Sequence[Unit]) -> Unit:
    """Units of equal options as one: estimates add up."""
    if len(units) == 1:
        return units[0]
    options = tuple(
        Option(option.name, _sum([unit.option(option.name).estimate for unit in units]))
        for option in units[0].options
    )
    return Unit(name, options, tuple(layer for unit in units for layer in unit.layers))


def _sum(estimates: Sequence[Estimate]) -> Estimate:
    totals: Mapping[Resource, float] = {
        name: math.fsum(one.of(name) for one in estimates) for name in RESOURCES
    }
    return Estimate(**totals, sources=estimates[0].sources)  # type: ignore[arg-type]
