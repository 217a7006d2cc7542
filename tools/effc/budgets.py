"""Budgets a user sets, and whether a result keeps them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from effc.ir.errors import UsageError

_BUDGET = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+|%)")


@dataclass(frozen=True)
class Budget:
    """The most of something a result may have.

    Attributes:
        value: How much, in the unit of what is limited, or percent of the baseline's.
        is_relative: Whether it is a percentage.
        OPTION: The option that sets it.
        EXAMPLES: How it is written.
        UNITS: What a unit other than `%` stands for; spelt in lower case.
    """

    value: float
    is_relative: bool
    OPTION: ClassVar[str]
    EXAMPLES: ClassVar[str]
    UNITS: ClassVar[Mapping[str, float]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a number and a unit.

        Raises:
            UsageError: For anything else.
        """
        found = _BUDGET.fullmatch(text.strip().lower())
        value, unit = found.groups() if found else ("", "")
        if unit != "%" and unit not in cls.UNITS:
            raise UsageError(f"{cls.OPTION} {text!r} is no budget: write {cls.EXAMPLES}")
        return cls(float(value) * cls.UNITS.get(unit, 1), unit == "%")

    def allowed(self, baseline: float) -> float:
        """The most, in the unit of what is limited."""
        return abs(baseline) * self.value / 100 if self.is_relative else self.value


class DropBudget(Budget):
    """The largest loss of task quality; a point is a hundredth."""

    OPTION = "--max-drop"
    EXAMPLES = "1% (of the baseline's metric) or 0.5pt (absolute, in hundredths)"
    UNITS: ClassVar[Mapping[str, float]] = {"pt": 0.01}

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.is_relative else f"{self.value * 100:g}pt"


class SizeBudget(Budget):
    """The largest size of what is shipped, in bytes."""

    OPTION = "--max-size"
    EXAMPLES = "3MB, 500KB, or 25% (of the baseline)"
    UNITS: ClassVar[Mapping[str, float]] = {
        "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
        "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
    }  # fmt: skip

    def allowed(self, baseline: float) -> int:
        """The size in bytes."""
        return int(super().allowed(baseline))


class LatencyBudget(Budget):
    """The longest a run may take, in seconds."""

    OPTION = "--max-latency"
    EXAMPLES = "5ms, 800us, or 60% (of the baseline)"
    UNITS: ClassVar[Mapping[str, float]] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def loss_of(baseline: float, found: float, better: str) -> float:
    """How much worse a metric became; negative if it improved."""
    return baseline - found if better == "higher" else found - baseline
