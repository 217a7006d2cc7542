"""The memory plan, executed on a model of the arena: every reader finds what was written for it."""

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effc.codegen.memory import ALIGN, Life, MemoryPlan, plan
from effc.ir.symbols import Size, evaluate, named

NEAR = 1.25
BATCH = named("batch")


@st.composite
def lifetimes(draw: st.DrawFn, sizes: st.SearchStrategy[Size]) -> list[Life]:
    """Buffers as a program makes them: one per step, read by some later steps."""
    count = draw(st.integers(1, 14))
    lasts = [draw(st.integers(step, count)) for step in range(count)]
    return [Life(f"b{step}", draw(sizes), step, lasts[step]) for step in range(count)]


FIXED = st.integers(1, 3000)
SYMBOLIC = st.builds(lambda a, b: a * BATCH + b, st.integers(1, 40), st.integers(0, 900))


def run(lives: list[Life], ranges: dict[Hashable, range]) -> None:
    """Let every step write its buffers, then check that all live ones hold what was written."""
    end = max(place.stop for place in ranges.values())
    arena = np.full(end, -1)
    for step in range(max(life.last for life in lives) + 1):
        for number, life in enumerate(lives):
            if life.first == step:
                arena[ranges[life.key]] = number
        for number, life in enumerate(lives):
            if life.first <= step <= life.last:
                assert (arena[ranges[life.key]] == number).all(), f"{life.key} at step {step}"


def peak(lives: list[Life]) -> int:
    """Bytes live at the fullest step: no plan needs less."""
    steps = range(max((life.last for life in lives), default=0) + 1)
    return max(sum(x.nbytes for x in lives if x.first <= s <= x.last) for s in steps)


def static_ranges(lives: list[Life], made: MemoryPlan) -> dict[Hashable, range]:
    starts = {life.key: made.offsets[made.slot_of[life.key]] for life in lives}
    return {life.key: range(starts[life.key], starts[life.key] + life.nbytes) for life in lives}


@given(lifetimes(FIXED))
def test_live_buffers_never_overlap(lives: list[Life]) -> None:
    made = plan(lives)
    ranges = static_ranges(lives, made)
    run(lives, ranges)
    assert made.is_static
    assert made.live_nbytes == peak(lives)
    assert all(place.start % ALIGN == 0 for place in ranges.values())
    assert peak(lives) <= max(place.stop for place in ranges.values()) <= made.nbytes
    assert made.nbytes <= sum(-(-life.nbytes // ALIGN) * ALIGN for life in lives)


@given(lifetimes(SYMBOLIC), st.lists(st.integers(1, 64), min_size=1, max_size=4))
def test_symbolic_buffers_never_overlap_at_any_size(lives: list[Life], batches: list[int]) -> None:
    made = plan(lives)
    assert not made.is_static
    for batch in batches:
        at, starts = 0, []
        for slot in made.slots:
            starts.append(at)
            at += -(-max(evaluate(size, {"batch": batch}) for size in slot) // ALIGN) * ALIGN
        where = {life.key: starts[made.slot_of[life.key]] for life in lives}
        sizes = {life.key: evaluate(life.nbytes, {"batch": batch}) for life in lives}
        run(lives, {key: range(where[key], where[key] + sizes[key]) for key in where})


@pytest.mark.parametrize("seed", range(20))
def test_plans_are_near_the_peak(seed: int) -> None:
    """Networks: mostly chains, some residual connections."""
    random = np.random.default_rng(seed)
    lives = [
        Life(step, ALIGN * int(random.integers(1, 64)), step, step + int(random.choice([1, 1, 3])))
        for step in range(60)
    ]
    made = plan(lives)
    assert made.nbytes is not None
    assert peak(lives) <= made.nbytes <= NEAR * peak(lives)


def test_a_chain_of_equal_buffers_needs_two() -> None:
    lives = [Life(step, 1000, step, step + 1) for step in range(10)]
    assert plan(lives).nbytes == 2 * 1024


def test_a_symbolic_chain_needs_two_slots() -> None:
    lives = [Life(step, 8 * BATCH, step, step + 1) for step in range(10)]
    assert plan(lives).slots == [[8 * BATCH], [8 * BATCH]]


def test_nothing_needs_nothing() -> None:
    assert plan([]) == MemoryPlan({}, [], [], 0, 0)
