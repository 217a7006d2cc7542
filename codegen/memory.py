"""Where intermediate results lie in the arena.

Buffers that live at the same time never overlap. With known sizes each buffer gets an offset (large
ones first, in the first gap that fits; while room is wasted, what lies highest is placed earlier);
with symbolic sizes buffers share slots whose sizes the driver computes when the sizes are bound.
"""

import itertools
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

from effc.codegen.families.elementwise import typical
from effc.ir.symbols import Size

ALIGN = 64
ATTEMPTS = 24
Places: TypeAlias = dict[Hashable, tuple[int, int]]


@dataclass(frozen=True)
class Life:
    """A buffer and the steps it lives through.

    Attributes:
        key: What the buffer is called.
        nbytes: Its size.
        first: The step that writes it.
        last: The last step that reads it.
    """

    key: Hashable
    nbytes: Size
    first: int
    last: int

    def meets(self, other: "Life") -> bool:
        """Whether both live at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Result of planning.

    Attributes:
        slot_of: The slot of each buffer.
        slots: The buffers' sizes of each slot; its size is their maximum.
        offsets: Bytes from the start of the arena, per slot, where all sizes are known.
        nbytes: Bytes of the arena where all sizes are known, else None.
        live_nbytes: The most bytes that are needed at one step: no plan takes less. None likewise.
    """

    slot_of: dict[Hashable, int]
    slots: list[list[Size]]
    offsets: list[int] = field(default_factory=list)
    nbytes: int | None = None
    live_nbytes: int | None = None

    @property
    def is_static(self) -> bool:
        """Whether all offsets are known."""
        return self.nbytes is not None


def plan(lives: list[Life]) -> MemoryPlan:
    """Give every buffer a place."""
    if all(isinstance(life.nbytes, int) for life in lives):
        return _offsets(lives)
    return _shared_slots(lives)


def round_up(nbytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-nbytes // ALIGN) * ALIGN


def _offsets(lives: list[Life]) -> MemoryPlan:
    """Place large buffers first; where that wastes room, place what lies highest earlier."""
    least = _most_live(lives)
    order = sorted(lives, key=lambda life: (-int(life.nbytes), life.first))
    best = found = _placed(order)
    for _ in range(ATTEMPTS):
        if _top(best) <= round_up(least):
            break
        order.insert(0, order.pop(_highest(order, found)))
        found = _placed(order)
        best = min(best, found, key=_top)
    keys = list(best)
    return MemoryPlan(
        {key: number for number, key in enumerate(keys)},
        [[nbytes] for _, nbytes in best.values()],
        [at for at, _ in best.values()],
        round_up(_top(best)),
        least,
    )


def _placed(order: list[Life]) -> Places:
    """Offset and size of every buffer, each put into the first gap that fits."""
    placed: list[tuple[Life, int]] = []
    for life in order:
        nbytes = int(life.nbytes)
        neighbours = sorted(
            (at, at + int(other.nbytes)) for other, at in placed if other.meets(life)
        )
        offset = 0
        for start, end in neighbours:
            if offset + nbytes <= start:
                break
            offset = max(offset, round_up(end))
        placed.append((life, offset))
    return {life.key: (at, int(life.nbytes)) for life, at in placed}


def _top(places: Places) -> int:
    return max((at + nbytes for at, nbytes in places.values()), default=0)


def _highest(order: list[Life], places: Places) -> int:
    """Which buffer of an order ends last in the arena."""
    return max(range(len(order)), key=lambda number: sum(places[order[number].key]))


def _most_live(lives: list[Life]) -> int:
    """The largest sum of the sizes of buffers that live at the same step."""
    changes: dict[int, int] = {}
    for life in lives:
        for step, nbytes in ((life.first, life.nbytes), (life.last + 1, -life.nbytes)):
            changes[step] = changes.get(step, 0) + int(nbytes)
    return max(itertools.accumulate(changes[step] for step in sorted(changes)), default=0)


def _shared_slots(lives: list[Life]) -> MemoryPlan:
    slots: list[list[Life]] = []
    slot_of: dict[Hashable, int] = {}
    for life in sorted(lives, key=lambda life: (-typical(life.nbytes), life.first)):
        free = [n for n, slot in enumerate(slots) if not any(life.meets(o) for o in slot)]
        number = free[0] if free else len(slots)
        if not free:
            slots.append([])
        slots[number].append(life)
        slot_of[life.key] = number
    return MemoryPlan(slot_of, [list(dict.fromkeys(o.nbytes for o in slot)) for slot in slots])
