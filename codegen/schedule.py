"""Schedules: what a kernel family leaves open, as one point of a small explicit space.

A family that leaves something open defines a subclass of `Schedule` and a function
`space(region, isa)` that lists every point, the default first and the others from the most to the
least promising, and its `build` takes a point of it. The default follows from the Target's facts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[str, int]


@dataclass(frozen=True)
class Schedule:
    """One choice for everything a family leaves open; fields are integers.

    The base class itself is the schedule of a kernel without choices.
    """

    def values(self) -> dict[str, int]:
        """The choices by name."""
        return {name: int(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values().items())


Space = tuple[Schedule, ...]
Chosen = Callable[[str], Values | None]
FIXED: Space = (Schedule(),)


def nothing_chosen(kernel: str) -> Values | None:
    """Leave every kernel at its default."""
    return None


def point_of(space: Sequence[Schedule], values: Values | None) -> Schedule | None:
    """The point of a space that has these values; None if there is none."""
    if values is None:
        return None
    return next((point for point in space if point.values() == dict(values)), None)


def ordered(points: Iterable[Schedule], default: Schedule) -> Space:
    """A space from its points: the default first, every point once."""
    return tuple(dict.fromkeys([default, *points]))


def distance(first: Schedule, second: Schedule) -> int:
    """In how many choices two points of a space differ."""
    pairs = zip(first.values().values(), second.values().values(), strict=True)
    return sum(mine != other for mine, other in pairs)
