"""The choice as an integer program, made small by what its Lagrangian dual proves.

A multiple-choice knapsack: minimise sum c x, one x per unit, sum a x <= b for every limit
(`scipy.optimize.milp`). With ten thousand units the program itself is too large, but prices on the
limits split it into units that decide alone. At the best prices, found by cutting planes (Kelley,
1960), the sum of those decisions is a lower bound, and an option whose price is further from its
unit's best than the gap to a known choice is in no better choice: only what is left, the core, is
an integer program (reduced-cost fixing; Sinha and Zoltners, 1979).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_matrix

from effc.passes.plan.greedy import lowered, raised
from effc.passes.plan.solver import Answer
from effc.passes.plan.table import Indices, Table, Vector

SMALL_ROWS = 300
CORE_ROWS = 600
CUTS = 60
DUAL_GAP = 1e-9
SECONDS = 20.0
TIGHTENINGS = 8
SCALE = 1e3
RAISED = 3
REACH = 4.0
LEAST_SLACK = 1e-9


class IntegerProgram:
    """Exact up to rounding; where the core is too large, within the bound it reports."""

    def solve(self, table: Table, rng: np.random.Generator) -> Answer | None:
        """Bound, shrink, solve."""
        free = table.least(table.objective)
        if table.keeps(free):
            return Answer(free, table.value(free))
        if len(table.objective) <= SMALL_ROWS:
            return _whole(table)
        dual = _dual(table)
        if dual is None:
            return None
        known = _known(table, dual)
        core = _core(table, dual, known)
        found, is_optimal = _exact(table, core.rows, known)
        if found is None:
            return None if core.is_proved else _whole(table)
        is_proved = is_optimal and core.is_proved
        return Answer(found, table.value(found) if is_proved else dual.bound)


def _whole(table: Table) -> Answer | None:
    """Solve the program over all rows."""
    known = lowered(table, table.least(table.objective))
    found, is_optimal = _exact(table, np.arange(len(table.objective)), known)
    if found is None:
        return None
    return Answer(found, table.value(found) if is_optimal else None)


@dataclass(frozen=True, eq=False)
class Dual:
    """The best prices found.

    Attributes:
        bound: No choice within the limits has a smaller objective.
        priced: Objective of each row with what it takes of the limits at those prices: [rows].
        tried: The choices the units made at all prices on the way.
    """

    bound: float
    priced: Vector
    tried: list[Indices]


@dataclass(frozen=True, eq=False)
class Core:
    """Rows that may be in a better choice than the one known.

    Attributes:
        rows: In order; at least one of every unit.
        is_proved: Whether no row was dropped without proof.
    """

    rows: Indices
    is_proved: bool


def _dual(table: Table) -> Dual | None:
    """Prices by cutting planes; None if they prove that no choice keeps the limits."""
    costs, scales = table.costs / table.scales(), table.scales()
    most = float(np.maximum.reduceat(table.objective, table.first[:-1]).sum())
    least = table.value(table.least(table.objective))
    unit = (most - least) or abs(most) or 1.0
    prices, box = np.zeros(len(scales)), np.full(len(scales), unit)
    tried: list[Indices] = []
    cuts: list[Vector] = []
    best, best_priced = -np.inf, table.objective
    for _ in range(CUTS):
        priced = table.objective + costs @ prices
        rows = table.least(priced)
        left = -table.excess(rows) / scales
        value = float(table.value(rows) - left @ prices)
        tried.append(rows)
        cuts.append(np.array([table.value(rows), *left]))
        if value > best:
            best, best_priced = value, priced
        if best > most + DUAL_GAP * unit:
            return None
        prices, reached = _next_prices(np.array(cuts), box)
        if reached - best <= DUAL_GAP * unit:
            if not (prices >= box).any():
                break
            box = np.where(prices >= box, box * REACH, box)
    return Dual(best, best_priced, tried)


def _next_prices(cuts: Vector, box: Vector) -> tuple[Vector, float]:
    """Where the cuts leave the bound highest, and how high.

    Args:
        cuts: float64 [choices, 1 + limits]: objective, then what is left of each limit.
        box: The largest prices: float64 [limits].
    """
    unit = float(box.max())
    planes = np.column_stack((np.ones(len(cuts)), cuts[:, 1:]))
    target = np.concatenate(([-1.0], np.zeros(len(box))))
    limits = [(None, None), *((0.0, float(one) / unit) for one in box)]
    found = linprog(target, planes, cuts[:, 0] / unit, bounds=limits, method="highs")
    x = np.asarray(found.x)
    return x[1:] * unit, float(x[0] * unit)


def _known(table: Table, dual: Dual) -> Indices | None:
    """A good choice within the limits: the best on the way, and what greedy steps make of them."""
    made = [lowered(table, table.least(dual.priced)), *filter(table.keeps, dual.tried)]
    kept = sorted((rows for rows in made if rows is not None), key=table.value)[:RAISED]
    if not kept:
        descended = lowered(table, table.least(table.objective))
        kept = [] if descended is None else [descended]
    return min((raised(table, rows) for rows in kept), key=table.value, default=None)


def _core(table: Table, dual: Dual, known: Indices | None) -> Core:
    owners = table.owners()
    least = np.minimum.reduceat(dual.priced, table.first[:-1])
    further = dual.priced - least[owners]
    gap = np.inf if known is None else table.value(known) - dual.bound
    can_be = further <= gap + DUAL_GAP * (1.0 + abs(gap) if np.isfinite(gap) else 1.0)
    can_be[table.least(dual.priced)] = True
    if known is not None:
        can_be[known] = True
    is_open = can_be & (np.bincount(owners[can_be], minlength=table.units)[owners] > 1)
    if is_open.sum() <= CORE_ROWS:
        return Core(np.flatnonzero(can_be), True)
    close = np.argsort(np.where(is_open, further, np.inf), kind="stable")[:CORE_ROWS]
    chosen = can_be & ~is_open
    chosen[close] = True
    chosen[table.least(dual.priced)] = True
    if known is not None:
        chosen[known] = True
    return Core(np.flatnonzero(chosen), False)


def _exact(table: Table, core: Indices, known: Indices | None) -> tuple[Indices | None, bool]:
    """The best choice of the core's rows, and whether that is proved.

    The program's tolerance may let a limit be broken in the seventh digit; the limit is then
    tightened by that much, and the program solved again.
    """
    owners = table.owners()[core]
    slack = np.zeros(len(table.allowed))
    for _ in range(TIGHTENINGS):
        result = _program(table, core, owners, table.allowed - slack, known)
        if result.x is None:
            return known, result.status == 2 and not slack.any()
        rows = _read(result.x, core, owners)
        if table.keeps(rows):
            is_better = known is None or table.value(rows) <= table.value(known)
            return (rows if is_better else known), result.status == 0 and not slack.any()
        slack += 2 * np.maximum(table.excess(rows), 0) + LEAST_SLACK * table.scales()
    return known, False


def _program(
    table: Table, core: Indices, owners: Indices, allowed: Vector, known: Indices | None
) -> OptimizeResult:
    """Solve the program over some rows, its objective scaled to the digits that matter.

    Without presolve: bringing solutions back through it makes the solver print to stdout.
    """
    count, scales = len(core), table.scales()
    least = np.minimum.reduceat(table.objective[core], _starts(owners))
    objective = table.objective[core] - least[owners]
    at_stake = float(objective.max() if known is None else table.value(known) - least.sum())
    one_each = csr_matrix((np.ones(count), (owners, np.arange(count))), (table.units, count))
    return milp(
        objective * (SCALE / at_stake if at_stake > 0 else 1.0),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(csr_matrix((table.costs[core] / scales).T), -np.inf, allowed / scales),
        ],
        integrality=np.ones(count, dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": SECONDS, "presolve": False},
    )


def _read(x: Vector, core: Indices, owners: Indices) -> Indices:
    """The row of each unit whose variable is largest."""
    starts = np.append(_starts(owners), len(core))
    picked = [first + int(np.argmax(x[first:last])) for first, last in pairwise(starts)]
    return np.asarray(core[picked])


def _starts(owners: Indices) -> Indices:
    return np.flatnonzero(np.diff(owners, prepend=-1))
