"""Editing a program's graph: new nodes get their value description and provenance at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from effc.ir import provenance
from effc.ir.opspec import Kind, spec_of
from effc.ir.program import FORWARD, Program, set_attribute, unused_name


class Editor:
    """Inserts, replaces and removes nodes of one method of a program.

    Args:
        program: The program to edit, in place.
        method: Which of its methods.
        rule: Name of the pass or rule; recorded in the provenance of every node made.
    """

    def __init__(self, program: Program, method: str = FORWARD, rule: str = "") -> None:
        self.program = program
        self.module = program.methods[method]
        self.graph = self.module.graph
        self.rule = rule
        self.edits = 0
        self._mode = _fake_mode(self.module)

    def call(
        self,
        like: fx.Node,
        target: Callable[..., Any],
        *args: Any,
        before: fx.Node | None = None,
        **kwargs: Any,
    ) -> fx.Node:
        """Insert a call.

        Args:
            like: The node the new one stands for; gives it its source.
            target: The operator.
            args: Positional arguments; nodes or constants.
            before: Where to insert; right after `like` if None.
            kwargs: Keyword arguments of the operator.
        """
        value = self._evaluate(target, args, kwargs)
        place = self.graph.inserting_before(before) if before else self.graph.inserting_after(like)
        with place:
            node = self.graph.call_function(target, args, kwargs)
        provenance.derive(node, like, self.rule)
        node.meta["val"] = value
        self.edits += 1
        return node

    def weight(self, path: str, tensor: torch.Tensor, like: fx.Node | None = None) -> fx.Node:
        """Attach a tensor under a free name like `path` and insert a node that reads it.

        The node stands before the first node that is not an input or a weight, so that anything may
        use it.
        """
        path = unused_name(self.module, path)
        set_attribute(self.module, path, tensor.detach())
        with self.graph.inserting_before(self._first_call()):
            node = self.graph.get_attr(path)
        node.meta["val"] = self.fake(tensor)
        if like is not None:
            provenance.derive(node, like, self.rule)
        self.edits += 1
        return node

    def fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """The value description of a tensor."""
        found: torch.Tensor = self._mode.from_tensor(tensor.detach(), static_shapes=True)
        return found

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every user of `old`, except `new` itself, use `new`; remove `old` if it is pure."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.edits += 1
        if not old.users and old.op in ("call_function", "get_attr"):
            self.graph.erase_node(old)

    def set_argument(self, node: fx.Node, position: int, value: Any) -> None:
        """Change one positional argument of a node."""
        node.update_arg(position, value)
        self.edits += 1

    def refresh(self, node: fx.Node) -> None:
        """Recompute the value description of a call, after an argument got another layout."""
        node.meta["val"] = self._evaluate(node.target, node.args, node.kwargs)

    def remove_dead(self) -> int:
        """Erase every call and weight nobody reads; return how many went."""
        count = 0
        for node in reversed(list(self.graph.nodes)):
            if node.users or node.op not in ("call_function", "get_attr", "call_module"):
                continue
            found = spec_of(node) if node.op == "call_function" else None
            if found is None or found.is_pure:
                self.graph.erase_node(node)
                count += 1
        self.edits += count
        return count

    def finish(self) -> bool:
        """Drop tensors nobody reads, recompile the module; return whether anything was edited."""
        if self.edits:
            drop_unread(self.module)
            self.module.recompile()
        return self.edits > 0

    def _first_call(self) -> fx.Node:
        return next(n for n in self.graph.nodes if n.op not in ("placeholder", "get_attr"))

    def _evaluate(self, target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        values = fx.node.map_arg((args, kwargs), lambda node: node.meta["val"])
        with self._mode, enable_python_dispatcher(), torch.no_grad():
            return target(*values[0], **values[1])


def _fake_mode(module: fx.GraphModule) -> FakeTensorMode:
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


def drop_unread(module: fx.GraphModule) -> None:
    """Remove the tensors of a module that no node of its graph reads."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    owned = [name for name, _ in module.named_buffers()] + [n for n, _ in module.named_parameters()]
    for path in owned:
        if path not in read:
            owner, _, name = path.rpartition(".")
            delattr(module.get_submodule(owner), name)


def is_size_argument(value: Any) -> bool:
    """Whether a node's argument is a size: an int or a node that computes one."""
    if isinstance(value, fx.Node):
        found = spec_of(value) if value.op == "call_function" else None
        return found is not None and found.kind == Kind.SCALAR
    return isinstance(value, int)
