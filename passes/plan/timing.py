"""How long parts of a program take: measured on the target, else the roofline of its facts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from effc.ir.target import VNNI, Target

MEASURED, MODELLED = "measured", "modelled"
CYCLES = 3e9  # per second, of no processor in particular
MULTIPLIERS = 2  # vector multiply-adds a core begins per cycle
READING = 8e9  # bytes per second from memory, per core
LANE_BITS = 32


@dataclass(frozen=True)
class Rates:
    """What a machine does per second at most.

    Attributes:
        macs: Multiply-adds by precision, `int8` and `float32`.
        reading: Bytes from memory.
    """

    macs: Mapping[str, float]
    reading: float

    @classmethod
    def of(cls, target: Target) -> "Rates":
        """Those of a target's facts at a usual clock rate."""
        lanes = max(target.vector_bits // LANE_BITS, 1)
        single = target.cores * lanes * MULTIPLIERS * CYCLES
        int8 = single * (4 if target.has(VNNI) else 2)
        return cls({"float32": single, "int8": int8}, target.cores * READING)

    def seconds(self, macs: float, nbytes: float, precision: str) -> float:
        """The least time some work can take."""
        return max(macs / self.macs[precision], nbytes / self.reading)


@dataclass(frozen=True)
class Timing:
    """Times from profiles of whole models on the target, all layers in one format at a time.

    Attributes:
        seconds: By format, and by layer or whatever else takes time.
    """

    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, layers: Iterable[str], form: str) -> float | None:
        """Seconds of some layers in a format; None if it was not measured.

        A layer no kernel is named for, since it is part of another's, takes none.
        """
        known = self.seconds.get(form)
        return None if known is None else sum(known.get(name, 0.0) for name in layers)

    def rest(self, layers: Iterable[str]) -> float:
        """Seconds of everything but some layers; of all formats the median."""
        named = set(layers)
        found = [
            sum(seconds for name, seconds in known.items() if name not in named)
            for known in self.seconds.values()
        ]
        return median(found) if found else 0.0
