"""Breed the formula of the metric `evolved` on the zoo's digits models: prints the best ones.

EMQ (arXiv 2307.10554): a bench of random configurations with measured divergence per model;
formulas whose fitness is the mean rank correlation over the models; parents by tournament, of which
the second is the candidate that ranks configurations least like the first (diversity-prompting
selection); formulas that are not finite, or give fewer bits a smaller loss, are not admitted
(compatibility screening). `PYTHONPATH=tools python tools/dev/evolve_proxy.py [MODEL ...]`.
"""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bench.allocation import FORMS, MODELS, Subject
from effc.passes.bits.metrics.evolved import STATISTICS, Numbers, numbers_of
from effc.passes.bits.metrics.expression import BINARY, UNARY, Expression

SEED, CONFIGURATIONS = 0, 60
POPULATION, GENERATIONS, TOURNAMENT = 60, 40, 5
MOST_SIZE, MUTATION = 9, 0.5
NAMES = tuple(STATISTICS)
Ranks = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bench:
    """One model's configurations.

    Attributes:
        numbers: Statistics [parts, forms].
        drawn: Form of every part: int64 [configurations, parts].
        measured: Ranks of the measured divergence [configurations].
    """

    numbers: Numbers
    drawn: NDArray[np.int64]
    measured: Ranks

    @classmethod
    def of(cls, name: str) -> "Bench":
        """Measure random configurations of a model."""
        study = Subject.of(name).study
        draw = np.random.default_rng(SEED)
        drawn = draw.integers(0, len(FORMS), (CONFIGURATIONS, len(study.parts)))
        damage = [
            study.damage({part: FORMS[at] for part, at in zip(study.parts, row, strict=True)})
            for row in drawn
        ]
        return cls(numbers_of(study, study.parts, FORMS, NAMES), drawn, rankdata(damage))

    def ranks(self, formula: Expression) -> Ranks | None:
        """Ranks a formula gives the configurations; None if it is not admitted."""
        with np.errstate(all="ignore"):
            table = formula.value(self.numbers)
        if table.shape != self.numbers["noise"].shape or not np.isfinite(table).all():
            return None
        if (np.diff(table, axis=1) < 0).any():  # forms go from many bits to few
            return None
        predicted = table[np.arange(table.shape[0]), self.drawn].sum(1)
        return rankdata(predicted)


@dataclass(frozen=True, eq=False)
class Individual:
    """A formula, how it ranks, and its fitness."""

    formula: Expression
    ranks: Ranks
    fitness: float


def admitted(formula: Expression, benches: list[Bench]) -> Individual | None:
    """A formula with its fitness; None if it fails the screening."""
    if formula.size > MOST_SIZE:
        return None
    found = [bench.ranks(formula) for bench in benches]
    ranks = [one for one in found if one is not None and one.std() > 0]
    if len(ranks) < len(benches):
        return None
    agreement = [
        np.corrcoef(one, bench.measured)[0, 1] for one, bench in zip(ranks, benches, strict=True)
    ]
    return Individual(formula, np.concatenate(ranks), float(np.mean(agreement)))


def grown(draw: np.random.Generator, depth: int) -> Expression:
    """A random formula."""
    kind = draw.integers(0, 3 if depth else 1)
    if kind == 0:
        return Expression(str(draw.choice(NAMES)))
    if kind == 1:
        return Expression(str(draw.choice([*UNARY])), (grown(draw, depth - 1),))
    operands = (grown(draw, depth - 1), grown(draw, depth - 1))
    return Expression(str(draw.choice([*BINARY])), operands)


def places(formula: Expression) -> list[Expression]:
    """The formula and all formulas in it."""
    return [formula, *(inner for one in formula.operands for inner in places(one))]


def exchanged(formula: Expression, old: Expression, new: Expression) -> Expression:
    """A formula with one part of it (by identity) exchanged."""
    if formula is old:
        return new
    operands = tuple(exchanged(one, old, new) for one in formula.operands)
    return Expression(formula.name, operands)


def child(population: list[Individual], draw: np.random.Generator) -> Expression:
    """Cross two parents, or mutate one."""
    rivals = [population[at] for at in draw.integers(0, len(population), TOURNAMENT)]
    first = max(rivals, key=lambda one: one.fitness)
    spots = places(first.formula)
    spot = spots[draw.integers(0, len(spots))]
    if draw.random() < MUTATION:
        return exchanged(first.formula, spot, grown(draw, 2))
    others = [population[at] for at in draw.integers(0, len(population), TOURNAMENT)]
    second = min(others, key=lambda one: float(np.corrcoef(one.ranks, first.ranks)[0, 1]))
    gifts = places(second.formula)
    return exchanged(first.formula, spot, gifts[draw.integers(0, len(gifts))])


def evolve(benches: list[Bench], draw: np.random.Generator) -> list[Individual]:
    """The last population, the fittest first; of equal fitness the shorter."""
    population: list[Individual] = []
    while len(population) < POPULATION:
        found = admitted(grown(draw, 3), benches)
        population += [found] if found is not None else []
    for _ in range(GENERATIONS):
        children = (admitted(child(population, draw), benches) for _ in range(POPULATION))
        every = {str(one.formula): one for one in (*population, *children) if one is not None}
        population = sorted(every.values(), key=lambda one: (-one.fitness, one.formula.size))
        population = population[:POPULATION]
    return population


def main() -> int:
    """Breed and print."""
    benches = [Bench.of(name) for name in sys.argv[1:] or MODELS]
    for one in evolve(benches, np.random.default_rng(SEED))[:5]:
        print(f"{one.fitness:.4f}  {one.formula}")
    for name in NAMES:
        plain = admitted(Expression(name), benches)
        print(f"{plain.fitness if plain else float('nan'):.4f}  {name} alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
