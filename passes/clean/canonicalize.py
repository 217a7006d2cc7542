"""Brings every call into the one form that later passes look for."""

from dataclasses import dataclass
from typing import ClassVar

from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean import arguments, convolutions, copies, products, renames, spelled_out
from effc.passes.clean.settle_views import layouts, settle_views

RULES = (
    *copies.RULES,
    *arguments.RULES,
    *renames.RULES,
    *convolutions.RULES,
    *products.RULES,
    *spelled_out.RULES,
)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """One operator, with all its arguments, for one meaning.

    Copies, dropout and casts to the same dtype go; `mm` and `addmm` with a weight become `linear`;
    convolutions name their rank and carry their padding as numbers; RMS norm and SiLU that are
    spelled out as arithmetic become one call; every call has all its positional arguments.
    """

    name: ClassVar[str] = "canonicalize"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply the rules until none fires, then choose between `view` and `reshape`."""
        before = layouts(program)
        done = apply(program, RULES)
        exchanged = settle_views(program, before, self.name)
        notes = {"rewrites": dict(sorted(done.fired.items()))}
        return Outcome(done.changed or exchanged, notes, tuple(done.refusals))
