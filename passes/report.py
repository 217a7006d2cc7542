"""What a pipeline did: one row per pass, JSON-able."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from effc.ir.program import Program
from effc.passes.base import Outcome


@dataclass
class PassRow:
    """One pass that ran.

    Attributes:
        text: The pass with its options.
        seconds: Wall time.
        changed: Whether it changed the program.
        notes: What the pass reports, by name.
        refusals: `[rule, reason, count, first source]` of everything left alone.
        measured: What instruments add, such as the output error against the input program.
    """

    text: str
    seconds: float
    changed: bool
    notes: dict[str, Any] = field(default_factory=dict)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, seconds: float, outcome: Outcome) -> "PassRow":
        """Make the row of an outcome, with equal refusals counted."""
        counts = Counter((refusal.rule, refusal.reason) for refusal in outcome.refusals)
        grouped = [
            {
                "rule": rule,
                "reason": reason,
                "count": count,
                "sources": [
                    refusal.source
                    for refusal in outcome.refusals
                    if (refusal.rule, refusal.reason) == (rule, reason)
                ],
            }
            for (rule, reason), count in counts.items()
        ]
        return cls(text, seconds, outcome.changed, dict(outcome.notes), grouped)


@dataclass(frozen=True)
class PipelineReport:
    """The result of a pipeline.

    Attributes:
        program: The program after the last pass that ran.
        rows: One per pass that ran.
    """

    program: Program
    rows: tuple[PassRow, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed the program."""
        return any(row.changed for row in self.rows)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as plain data."""
        return [dict(vars(row)) for row in self.rows]
