"""Removes calls that give back their input, and calls whose result is known without data."""

from dataclasses import dataclass
from typing import ClassVar

from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean import (
    arithmetic_identities,
    grouped_queries,
    mask_identities,
    view_identities,
)
from effc.passes.clean.settle_views import layouts, settle_views

RULES = (
    *view_identities.RULES,
    *mask_identities.RULES,
    *arithmetic_identities.RULES,
    *grouped_queries.RULES,
)


@dataclass(frozen=True)
class FoldIdentities(Pass):
    """Drops `x + 0`, `x * 1`, views to the same shape, masks that hide nothing, repeated heads.

    Integer index arithmetic is followed as affine functions of the index, so that masks which
    exported models compute from `arange` are decided here and not at run time.
    """

    name: ClassVar[str] = "fold-identities"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply the rules until none fires, then choose between `view` and `reshape`."""
        before = layouts(program)
        done = apply(program, RULES)
        exchanged = settle_views(program, before, self.name)
        notes = {"rewrites": dict(sorted(done.fired.items()))}
        return Outcome(done.changed or exchanged, notes, tuple(done.refusals))
