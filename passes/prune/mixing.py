"""Counts of channels and formats of weights in one table.

How many bytes and operations a weight takes depends on both of its ends and on its format, so that
estimates of single decisions do not add up. A table says what each decision changes with all others
as they are at some choice; the solver's answer is counted as a whole, asked for less where it holds
too little, and becomes the choice that the next table is made at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effc.ir.coupling.analysis import Coupling
from effc.ir.coupling.atoms import Axis
from effc.ir.coupling.call import weight_key
from effc.ir.coupling.groups import Group, resolved_weights
from effc.passes.bits.allocation import Offer, Work
from effc.passes.bits.granularity import joined, together
from effc.passes.plan.model import (
    RESOURCES,
    Estimate,
    Infeasible,
    Limit,
    Option,
    Plan,
    Problem,
    Unit,
)
from effc.passes.plan.solver import solve
from effc.passes.prune.cost import loops_of

REST = "all else"
SHARES, ROUNDS = 16, 4
COUNTED = {"loss": "measured", "nbytes": "counted", "bit_operations": "counted"}
Choices = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Choice:
    """A group with the counts it may keep.

    Attributes:
        name: Of the unit.
        group: Its atoms.
        order: Atoms that go first first, int64 [group.size].
        losses: By count, the whole size first.
    """

    name: str
    group: Group
    order: NDArray[np.int64]
    losses: Mapping[int, float]


@dataclass(eq=False)
class Mix:
    """What a plan of counts and formats decides about.

    Attributes:
        coupling: Of the program.
        choices: The groups.
        offers: The weights.
        works: What the layers of each weight do.
        granularity: What takes one format.
    """

    coupling: Coupling
    choices: Sequence[Choice]
    offers: Sequence[Offer]
    works: Sequence[Work]
    granularity: str
    _units: dict[tuple[Any, ...], Unit] = field(default_factory=dict)
    _touched: dict[int, tuple[Axis, list[int]]] = field(default_factory=dict)
    _shares: dict[tuple[int, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Number atoms: which group they are of, and how many of it go after them."""
        count = self.coupling.atoms.count
        self._group = np.full(count, len(self.choices))
        self._rank = np.zeros(count, np.int64)
        for number, choice in enumerate(self.choices):
            self._group[choice.order] = number
            self._rank[choice.order] = np.arange(len(choice.order))[::-1]
        self._axes = resolved_weights(self.coupling)
        self._keys = [weight_key(offer.part.sources[0]) for offer in self.offers]
        coded = set(self._keys)
        self._formless = [
            (math.prod(key[1]) * key[3].itemsize, axes)
            for key, axes in self._axes.items()
            if key not in coded
        ]
        self._loops = [
            [[_resolved(self.coupling, a) for a in loops_of(self.coupling, layer.node)]
             for layer in offer.part.products]
            for offer in self.offers
        ]  # fmt: skip

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """Which weights each unit of formats is of."""
        whole = [offer.unit(work) for offer, work in zip(self.offers, self.works, strict=True)]
        place = {id(unit): at for at, unit in enumerate(whole)}
        grouped = together(whole, self.granularity)
        return {name: [place[id(unit)] for unit in units] for name, units in grouped.items()}

    @cached_property
    def start(self) -> dict[str, str]:
        """Nothing cut, all weights in the format of least loss."""
        found = {choice.name: str(choice.group.size) for choice in self.choices}
        for unit in self._formats(found):
            found[unit.name] = min(unit.options, key=lambda o: o.estimate.loss).name
        return found

    def cut(self, chosen: Choices) -> NDArray[np.int64]:
        """The atoms that go."""
        parts = [one.order[: one.group.size - int(chosen[one.name])] for one in self.choices]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def totals(self, chosen: Choices) -> dict[str, float]:
        """What a choice takes, by resource; bytes of weights without a format as they change."""
        losses = [one.losses[int(chosen[one.name])] for one in self.choices]
        found: dict[str, float] = dict.fromkeys(RESOURCES, 0.0)
        found["loss"] = math.fsum(losses)
        found["nbytes"] -= self._saved(chosen)
        for unit in self._formats(chosen):
            estimate = unit.option(chosen[unit.name]).estimate
            for name in RESOURCES:
                found[name] += estimate.of(name)
        return found

    def problem(self, at: Choices, limits: Sequence[Limit]) -> Problem:
        """The table at a choice: what each decision alone would make of it."""
        totals, formats = self.totals(at), self._formats(at)
        units = [*formats, *(self._counts(one, at, totals) for one in self.choices)]
        known = [unit.option(at[unit.name]).estimate for unit in units]
        rest = {n: totals[n] - math.fsum(one.of(n) for one in known) for n in RESOURCES}
        units.append(Unit(REST, (Option(REST, Estimate(**rest)),)))  # type: ignore[arg-type]
        return Problem(tuple(units), tuple(limits))

    def plan(self, chosen: Choices, solver: str) -> Plan:
        """A choice with its totals."""
        return Plan({**chosen, REST: REST}, self.totals(chosen), solver)

    def _counts(self, one: Choice, at: Choices, totals: Mapping[str, float]) -> Unit:
        options = []
        for count, loss in one.losses.items():
            other = self.totals({**at, one.name: str(count)})
            change = {name: other[name] - totals[name] for name in RESOURCES}
            estimate = Estimate(**{**change, "loss": loss}, sources=COUNTED)
            options.append(Option(str(count), estimate))
        return Unit(one.name, tuple(options))

    def _formats(self, chosen: Choices) -> list[Unit]:
        """Units of formats at the shapes that some counts leave."""
        return [
            joined(name, [self._format(at, chosen) for at in places])
            for name, places in self.members.items()
        ]

    def _format(self, at: int, chosen: Choices) -> Unit:
        offer, work = self.offers[at], self.works[at]
        weight = offer.part.weight.shape
        axes = self._axes.get(self._keys[at], (None,) * len(weight))
        sizes = zip(weight, axes, strict=True)
        shape = torch.Size([round(size * self._share(axis, chosen)) for size, axis in sizes])
        left = sum(
            macs * math.prod(self._share(axis, chosen) for axis in axes)
            for macs, axes in zip(work.macs, self._loops[at], strict=True)
        )
        share = left / sum(work.macs) if sum(work.macs) else 1.0
        key = (at, tuple(shape), share)
        if key not in self._units:
            self._units[key] = offer.unit(work, shape, share)
        return self._units[key]

    def _saved(self, chosen: Choices) -> float:
        """Bytes that go of weights that have no format."""
        return sum(
            nbytes * (1 - math.prod(self._share(axis, chosen) for axis in axes))
            for nbytes, axes in self._formless
        )

    def _share(self, axis: Axis | None, chosen: Choices) -> float:
        """How much of an axis stays."""
        if axis is None or not axis.shape[1]:
            return 1.0
        if id(axis) not in self._touched:
            self._touched[id(axis)] = (axis, np.unique(self._group[axis]).tolist())
        counts = [*(int(chosen[one.name]) for one in self.choices), 1]
        key = (id(axis), *(counts[number] for number in self._touched[id(axis)][1]))
        if key not in self._shares:
            stays = self._rank[axis] < np.array(counts)[self._group[axis]]
            self._shares[key] = float(stays.all(1).mean())
        return self._shares[key]


def mixed(mix: Mix, limits: Sequence[Limit], solver: str, rng: np.random.Generator
          ) -> tuple[Plan | Infeasible, Problem]:  # fmt: skip
    """The choice of least loss within limits, as counted, and the table at it.

    Args:
        mix: What to decide.
        limits: Over what `Mix.totals` counts.
        solver: A key of `SOLVERS`.
        rng: For solvers that draw.
    """
    at: dict[str, str] = dict(mix.start)
    best: dict[str, str] | None = None
    for _ in range(ROUNDS):
        found, is_kept = _held(mix, at, limits, solver, rng)
        if not is_kept and best is None:
            return _missed(mix, found, limits, solver), mix.problem(found, limits)
        if best is not None and not (is_kept and _loss(mix, found) < _loss(mix, best)):
            break
        at = best = found
    assert best is not None, "a round either finds a choice or returns"
    best = _improved(mix, best, limits)
    return mix.plan(best, solver), mix.problem(best, limits)


def _held(
    mix: Mix, at: Choices, limits: Sequence[Limit], solver: str, rng: np.random.Generator
) -> tuple[dict[str, str], bool]:
    """The first answer, of those to limits that are more and more strict, that holds as counted."""
    free = mix.problem(at, ())
    least = [
        math.fsum(min(o.estimate.of(one.resource) for o in unit.options) for unit in free.units)
        for one in limits
    ]
    found: dict[str, str] = {}
    for step in range(SHARES + 1):
        share = step / SHARES
        asked = tuple(
            replace(one, at_most=one.at_most + share * min(low - one.at_most, 0.0))
            for one, low in zip(limits, least, strict=True)
        )
        answer = solve(replace(free, limits=asked), solver, rng)
        plan = answer.plan if isinstance(answer, Infeasible) else answer
        found = {name: option for name, option in plan.choices.items() if name != REST}
        if _keeps(mix, found, limits):
            return found, True
    return found, False


def _keeps(mix: Mix, chosen: Choices, limits: Sequence[Limit]) -> bool:
    totals = mix.totals(chosen)
    return all(limit.holds(totals[limit.resource]) for limit in limits)


def _loss(mix: Mix, chosen: Choices) -> float:
    return mix.totals(chosen)["loss"]


def _missed(mix: Mix, found: Choices, limits: Sequence[Limit], solver: str) -> Infeasible:
    """The limit that the nearest choice exceeds most, in proportion."""
    totals = mix.totals(found)
    most = max(limits, key=lambda one: (totals[one.resource] - one.at_most) / abs(one.at_most or 1))
    return Infeasible(most, totals[most.resource], mix.plan(found, solver))


def _improved(mix: Mix, chosen: dict[str, str], limits: Sequence[Limit]) -> dict[str, str]:
    """Take back what there is room for, the largest gain first."""
    while True:
        free = mix.problem(chosen, ())
        moves = []
        for unit in free.units:
            own = unit.option(chosen.get(unit.name, REST)).estimate.loss
            gains = [(own - option.estimate.loss, option.name) for option in unit.options]
            moves += [(gain, unit.name, name) for gain, name in gains if gain > 0]
        for _, unit_name, option in sorted(moves, reverse=True):
            trial = {**chosen, unit_name: option}
            if _keeps(mix, trial, limits):
                chosen = trial
                break
        else:
            return chosen


def _resolved(coupling: Coupling, axis: Axis | None) -> Axis | None:
    return None if axis is None else coupling.atoms.resolve(axis)
