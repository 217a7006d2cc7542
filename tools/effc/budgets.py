"""Budgets a user sets, and whether a result keeps them."""

import re
from dataclasses import dataclass

from effc.ir.errors import UsageError

_NUMBER = r"(?P<value>\d+(?:\.\d*)?|\.\d+)"
_DROP = re.compile(_NUMBER + r"\s*(?P<unit>%|pt)")
_SIZE = re.compile(_NUMBER + r"\s*(?P<unit>%|B|KB|MB|GB|KiB|MiB|GiB)", re.IGNORECASE)
_TIME = re.compile(_NUMBER + r"\s*(?P<unit>%|ns|us|ms|s)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip


@dataclass(frozen=True)
class DropBudget:
    """The largest loss of task quality.

    Attributes:
        value: How much.
        is_relative: In percent of the baseline's quality; else in points (hundredths).
    """

    value: float
    is_relative: bool

    @classmethod
    def parse(cls, text: str) -> "DropBudget":
        """Read `1%` or `0.5pt`.

        Raises:
            UsageError: For anything else.
        """
        found = _DROP.fullmatch(text.strip())
        if not found:
            raise UsageError(
                f"--max-drop {text!r} is no budget: write 1% (of the baseline's metric) or 0.5pt "
                "(absolute, in hundredths)"
            )
        return cls(float(found["value"]), found["unit"] == "%")

    def allowed(self, baseline: float) -> float:
        """The loss in units of the metric."""
        return abs(baseline) * self.value / 100 if self.is_relative else self.value / 100

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.is_relative else 'pt'}"


@dataclass(frozen=True)
class SizeBudget:
    """The largest size of what is shipped.

    Attributes:
        value: Bytes, or percent of the baseline's size.
        is_relative: Whether it is a percentage.
    """

    value: float
    is_relative: bool

    @classmethod
    def parse(cls, text: str) -> "SizeBudget":
        """Read `3MB`, `500KB` or `25%`.

        Raises:
            UsageError: For anything else.
        """
        found = _SIZE.fullmatch(text.strip())
        if not found:
            raise UsageError(
                f"--max-size {text!r} is no budget: write 3MB, 500KB, or 25% (of the baseline)"
            )
        unit = found["unit"].lower()
        return cls(float(found["value"]) * _BYTES.get(unit, 1), unit == "%")

    def allowed(self, baseline_nbytes: int) -> int:
        """The size in bytes."""
        return int(baseline_nbytes * self.value / 100) if self.is_relative else int(self.value)


@dataclass(frozen=True)
class LatencyBudget:
    """The longest a run may take.

    Attributes:
        value: Seconds, or percent of the baseline's latency.
        is_relative: Whether it is a percentage.
    """

    value: float
    is_relative: bool

    @classmethod
    def parse(cls, text: str) -> "LatencyBudget":
        """Read `5ms`, `800us` or `60%`.

        Raises:
            UsageError: For anything else.
        """
        found = _TIME.fullmatch(text.strip())
        if not found:
            raise UsageError(
                f"--max-latency {text!r} is no budget: write 5ms, 800us, or 60% (of the baseline)"
            )
        return cls(float(found["value"]) * _SECONDS.get(found["unit"], 1), found["unit"] == "%")

    def allowed(self, baseline_seconds: float) -> float:
        """The latency in seconds."""
        return baseline_seconds * self.value / 100 if self.is_relative else self.value


def loss_of(baseline: float, found: float, better: str) -> float:
    """How much worse a metric became; negative if it improved."""
    return baseline - found if better == "higher" else found - baseline
