"""Packed weights as the 8-bit codes that kernels multiply; the artifact packs them again."""

from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute

UNPACK = "effc.unpack_signed.default"


class UnpackWeight:
    """unpack_signed of a weight is a weight."""

    name = "unpack-weight"

    def match(self, node: fx.Node) -> bool:
        """Whether codes are unpacked."""
        return node.op == "call_function" and op_name(node) == UNPACK

    def check(self, node: fx.Node, program: Program) -> str | None:
        """They must be known."""
        return None if node.args[0].op == "get_attr" else "the codes are not a constant"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Read the unpacked codes."""
        stored = attribute(editor.module, str(node.args[0].target))
        codes = node.target(stored, *node.args[1:])
        editor.replace(node, editor.weight(f"{node.args[0].target}_unpacked", codes, like=node))
