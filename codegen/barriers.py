"""Where threads must meet: only before a step that touches what another thread may still use.

All threads run all steps, each its share of the tasks, but for steps too small to be shared, which
the first thread runs alone. Two steps may overlap unless one writes memory the other reads or
writes; those the first thread runs alone follow each other anyway.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from effc.codegen.memory import Life, MemoryPlan


@dataclass(frozen=True)
class Touch:
    """Memory a step uses.

    Attributes:
        base: `arena` or `output`; other memory is never written while the model runs.
        key: Which buffer.
        is_write: Whether the step writes it.
    """

    base: str
    key: Hashable
    is_write: bool


class Conflicts:
    """Decides whether two uses of memory exclude each other.

    Args:
        plan: Where buffers of the arena lie.
        lives: Their sizes.
    """

    def __init__(self, plan: MemoryPlan, lives: list[Life]) -> None:
        self._plan = plan
        self._nbytes = {life.key: life.nbytes for life in lives}

    def between(self, first: Touch, second: Touch) -> bool:
        """Whether the two may not happen at the same time."""
        if not (first.is_write or second.is_write) or first.base != second.base:
            return False
        if first.key == second.key:
            return True
        return first.base == "arena" and self._overlap(first.key, second.key)

    def _overlap(self, first: Hashable, second: Hashable) -> bool:
        slots = self._plan.slot_of[first], self._plan.slot_of[second]
        if not self._plan.is_static:
            return slots[0] == slots[1]
        starts = [self._plan.offsets[slot] for slot in slots]
        sizes = [int(self._nbytes[key]) for key in (first, second)]
        return starts[0] < starts[1] + sizes[1] and starts[1] < starts[0] + sizes[0]


def meeting_points(
    touches: list[list[Touch]], conflicts: Conflicts, alone: list[bool]
) -> list[bool]:
    """For every step, whether threads must meet after it.

    Args:
        touches: The memory every step uses, in order.
        conflicts: How to compare them.
        alone: For every step, whether the first thread runs all of it.
    """
    must_meet = [False] * len(touches)
    pending: list[tuple[Touch, bool]] = []
    for number, (current, is_alone) in enumerate(zip(touches, alone, strict=True)):
        others = [touch for touch, by_first in pending if not (by_first and is_alone)]
        if any(conflicts.between(before, now) for before in others for now in current):
            must_meet[number - 1] = True
            pending = []
        pending += [(touch, is_alone) for touch in current]
    return must_meet
