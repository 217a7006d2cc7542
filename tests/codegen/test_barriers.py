"""Where threads meet, against every pair of steps compared byte by byte."""

from collections.abc import Hashable
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from effc.backends.tvm_cpu.build import lowered
from effc.codegen.barriers import Conflicts, Touch, meeting_points
from effc.codegen.executable import Executable, Step
from effc.codegen.memory import Life, MemoryPlan, plan
from effc.ir.program import Program
from effc.ir.symbols import named
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

BATCH = named("batch")
Steps = list[list[Touch]]
Bytes = dict[tuple[str, Hashable], set[int]]


@st.composite
def steps(draw: st.DrawFn, is_static: bool, largest: int = 9) -> tuple[Steps, list[Life]]:
    """Steps that each write a buffer or an output and read some earlier ones."""
    count = draw(st.integers(1, largest))
    made: Steps = []
    written: list[Touch] = []
    for number in range(count):
        base = draw(st.sampled_from(["arena", "arena", "arena", "output"]))
        reads = draw(st.lists(st.sampled_from(written), max_size=3)) if written else []
        made.append([Touch(base, number, True), *(Touch(r.base, r.key, False) for r in reads)])
        written.append(made[-1][0])
    uses: dict[Hashable, list[int]] = {}
    for number, touches in enumerate(made):
        for touch in touches:
            if touch.base == "arena":
                uses.setdefault(touch.key, []).append(number)
    unit = 1 if is_static else BATCH
    sizes = {key: draw(st.integers(1, 200)) * unit for key in uses}
    return made, [Life(key, sizes[key], min(used), max(used)) for key, used in uses.items()]


def places(lives: list[Life], made: MemoryPlan) -> dict[Hashable, set[int]]:
    """The bytes of every buffer; where sizes are symbolic, those of its slot."""
    if not made.is_static:
        return {life.key: {made.slot_of[life.key]} for life in lives}
    starts = {life.key: made.offsets[made.slot_of[life.key]] for life in lives}
    return {x.key: set(range(starts[x.key], starts[x.key] + int(x.nbytes))) for x in lives}


def hazards(touches: Steps, where: Bytes, alone: list[bool]) -> set[tuple[int, int]]:
    """Pairs of steps, one of which writes a byte that the other reads or writes.

    Two steps that the first thread runs alone are in order without meeting.
    """

    def spots(step: list[Touch], only_writes: bool) -> set[tuple[str, Hashable, int]]:
        return {
            (touch.base, None if touch.base == "arena" else touch.key, byte)
            for touch in step
            if touch.is_write or not only_writes
            for byte in where.get((touch.base, touch.key), {0})
        }

    every = [spots(step, False) for step in touches]
    writes = [spots(step, True) for step in touches]
    pairs = combinations(range(len(touches)), 2)
    return {
        (i, j)
        for i, j in pairs
        if not (alone[i] and alone[j]) and (writes[i] & every[j] or every[i] & writes[j])
    }


def separated(pairs: set[tuple[int, int]], meets: list[bool]) -> bool:
    """Whether threads meet between the steps of every pair."""
    return all(any(meets[first:second]) for first, second in pairs)


def found_and_hazards(
    touches: Steps, lives: list[Life], alone: list[bool]
) -> tuple[list[bool], set[tuple[int, int]]]:
    made = plan(lives)
    where = {("arena", key): spots for key, spots in places(lives, made).items()}
    meets = meeting_points(touches, Conflicts(made, lives), alone)
    return meets, hazards(touches, where, alone)


@pytest.mark.parametrize("is_static", [True, False])
def test_threads_meet_between_all_steps_that_exclude_each_other(is_static: bool) -> None:
    @given(steps(is_static), st.lists(st.booleans(), min_size=9, max_size=9))
    def check(case: tuple[Steps, list[Life]], alone: list[bool]) -> None:
        meets, pairs = found_and_hazards(*case, alone[: len(case[0])])
        assert separated(pairs, meets)

    check()


@pytest.mark.parametrize("is_static", [True, False])
def test_threads_meet_as_rarely_as_possible(is_static: bool) -> None:
    @given(steps(is_static, largest=7), st.lists(st.booleans(), min_size=7, max_size=7))
    def check(case: tuple[Steps, list[Life]], alone: list[bool]) -> None:
        meets, pairs = found_and_hazards(*case, alone[: len(case[0])])
        count = len(meets)
        fewer = combinations(range(count), max(sum(meets) - 1, 0))
        enough = [c for c in fewer if separated(pairs, [step in c for step in range(count)])]
        assert enough == ([] if any(meets) else [()])

    check()


def test_steps_that_only_read_the_same_memory_overlap() -> None:
    touches = [
        [Touch("arena", "a", True)],
        [Touch("arena", "a", False), Touch("output", 0, True)],
        [Touch("arena", "a", False), Touch("output", 1, True)],
    ]
    lives = [Life("a", 64, 0, 2)]
    meets = meeting_points(touches, Conflicts(plan(lives), lives), [False] * 3)
    assert meets == [True, False, False]


def test_memory_used_again_is_waited_for() -> None:
    """`c` lies where `a` was, which another thread may still read in step 1."""
    touches = [
        [Touch("arena", "a", True)],
        [Touch("arena", "a", False), Touch("output", 0, True)],
        [Touch("arena", "c", True)],
    ]
    lives = [Life("a", 64, 0, 1), Life("c", 64, 2, 2)]
    meets = meeting_points(touches, Conflicts(plan(lives), lives), [False] * 3)
    assert meets == [True, True, False]


def test_what_one_thread_runs_alone_is_not_waited_for() -> None:
    """The first thread makes `a` and `b`; all of them read `b`."""
    touches = [
        [Touch("arena", "a", True)],
        [Touch("arena", "a", False), Touch("arena", "b", True)],
        [Touch("arena", "b", False), Touch("output", 0, True)],
    ]
    lives = [Life("a", 64, 0, 1), Life("b", 64, 1, 2)]
    meets = meeting_points(touches, Conflicts(plan(lives), lives), [True, True, False])
    assert meets == [False, True, False]


class Branches(nn.Module):
    """Padded convolutions, a residual connection, a reduction in two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 20, 3, 1, 1), nn.Conv2d(20, 20, 3, 1, 1)
        self.depthwise = nn.Conv2d(20, 20, 5, 1, 2, groups=20)
        self.last = nn.Linear(20, 7)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.first(x).relu()
        x = x + self.depthwise(self.second(x).relu())
        return self.last(x.mean((2, 3))), x.softmax(-1)


def program_of(is_dynamic: bool, mode: str) -> Program:
    dynamic = {"x.0": "batch"} if is_dynamic else None
    program = traced(Branches(), torch.randn(2, 3, 9, 9), dynamic=dynamic)
    return PassManager.parse(f"{CLEAN}{mode}").run(program).program


@pytest.mark.parametrize("mode", ["", ",quantize"], ids=["float32", "int8"])
@pytest.mark.parametrize("is_dynamic", [False, True], ids=["fixed", "dynamic"])
def test_programs(is_dynamic: bool, mode: str) -> None:
    executable, _ = lowered(program_of(is_dynamic, mode), Target.parse("native"))
    touches = [touched(step) for step in executable.steps]
    alone = [step.is_alone for step in executable.steps]
    assert any(alone) is not is_dynamic
    every = hazards(touches, arena_bytes(executable), [False] * len(alone))
    assert len(every) >= len(executable.steps) // 2
    pairs = hazards(touches, arena_bytes(executable), alone)
    assert separated(pairs, [step.must_meet for step in executable.steps])
    assert not all(step.must_meet for step in executable.steps)


def touched(step: Step) -> list[Touch]:
    """What a step reads and writes, by the kinds of its kernel's arguments and its borders."""
    writes = {"output", "temporary"}
    found = [
        Touch(pointer.base, pointer.key, param.kind in writes)
        for param, pointer in zip(step.stage.params, step.pointers, strict=True)
        if param.kind not in ("packed", "scratch")
    ]
    for fill in step.fills:
        found.append(Touch(fill.start.base, fill.start.key, True))
        if fill.fill is not None:
            found.append(Touch(fill.fill.base, fill.fill.key, False))
    return found


def arena_bytes(executable: Executable) -> Bytes:
    memory = executable.memory
    found: Bytes = {}
    for key, slot in memory.slot_of.items():
        if memory.is_static:
            start, nbytes = memory.offsets[slot], int(memory.slots[slot][0])
            found["arena", key] = set(range(start, start + nbytes))
        else:
            found["arena", key] = {slot}
    return found
