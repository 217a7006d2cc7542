"""Removes what nothing reads."""

from dataclasses import dataclass
from typing import ClassVar

from effc.ir.edit import Editor, drop_unread
from effc.ir.program import Program
from effc.passes.base import Outcome, Pass, PassContext


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Removes calls whose results nobody reads, and weights no call reads."""

    name: ClassVar[str] = "remove-dead"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Remove dead nodes of each method and the tensors they read."""
        removed = 0
        for method, module in program.methods.items():
            editor = Editor(program, method, self.name)
            removed += editor.remove_dead()
            editor.finish()
            drop_unread(module)
        return Outcome(removed > 0, {"removed": removed})
