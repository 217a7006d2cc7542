"""Turn moves of whole rows that no strides describe into one selection of rows.

Window attention rolls a map and cuts it into windows, and back: up to four copies a layer. Rows
(the last dimension) stay whole on the way, so each such chain of moves is a table of row numbers,
found here by moving indices. A norm in front of it computes row by row and so can follow the
selection, which then is how its kernel, like any kernel of rows, reads its input: no copy is left.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.lower.row_moves import NORMS, Chain, RowTable, chain_of, is_strided, row_table

aten = torch.ops.aten


@dataclass(frozen=True)
class SelectRows(Pass):
    """Replace chains of moves of whole rows by one `index_select`, in front of a norm if one leads.

    Attributes:
        min_width: Rows of fewer elements are not worth an entry in a table.
    """

    name: ClassVar[str] = "select-rows"
    min_width: int = 16

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Rewrite every chain that strides do not describe."""
        count, refusals = 0, []
        for method in program.methods:
            editor = Editor(program, method, self.name)
            for node in list(editor.graph.nodes):
                chain = None if node._erased else chain_of(node)
                if chain is None or is_strided(program, chain):
                    continue
                table = row_table(program, chain, self.min_width)
                if isinstance(table, str):
                    refusals.append(Refusal(self.name, label(node), table))
                    continue
                _rewrite(editor, chain, table)
                count += 1
            if count:
                editor.remove_dead()
            editor.finish()
        return Outcome(count > 0, {"chains": count}, tuple(dict.fromkeys(refusals)))


def _rewrite(editor: Editor, chain: Chain, table: RowTable) -> None:
    """Select rows of the source, or of what its norm reads, and look at them in the end's shape."""
    end, source = chain.end, chain.source
    norm = source if _is_private_norm(chain) else None
    rows = editor.weight(f"{end.name}_rows", table.rows, end)
    flat = [-1, table.count, table.width]
    read = norm.args[0] if norm is not None else source
    if not isinstance(read, fx.Node):
        return
    if list(read.meta["val"].shape[1:]) != flat[1:]:
        read = editor.call(end, aten.reshape.default, read, flat, before=end)
    found = editor.call(end, aten.index_select.default, read, 1, rows, before=end)
    if norm is not None:
        found = editor.call(norm, norm.target, found, *norm.args[1:], before=end, **norm.kwargs)
    if found.meta["val"].shape != end.meta["val"].shape:
        found = editor.call(end, aten.reshape.default, found, table.shape, before=end)
    editor.replace(end, found)


def _is_private_norm(chain: Chain) -> bool:
    """Whether the source is a norm of rows that only this chain reads."""
    if op_name(chain.source) not in NORMS or len(chain.source.args[1]) != 1:
        return False
    inside = {*chain.moves}
    readers = {user for node in (chain.source, *chain.moves) for user in node.users}
    return readers - set(chain.end.users) <= inside and not inside & set(chain.end.users)
