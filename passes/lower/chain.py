"""What rules that spell an operator out share."""

from typing import Any

from torch import fx

from effc.ir.edit import Editor


class Chain:
    """Inserts calls one after the other, all standing for one node."""

    def __init__(self, editor: Editor, node: fx.Node) -> None:
        self.editor, self.node = editor, node

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a call before the node it will replace."""
        return self.editor.call(self.node, target, *args, before=self.node, **kwargs)


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
