"""A region as a kernel generator sees it: its graph, its tensors, and which of them are weights."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from effc.codegen.access import Access
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.symbols import Size


@dataclass(frozen=True)
class Region:
    """What one kernel computes.

    Attributes:
        module: Graph of the region; its placeholders are inputs and sizes, its output a tuple.
        inputs: How each input is reached, in order.
        outputs: How each output is reached, in order.
        weights: Per input, whether it is a weight known when compiling.
        names: torch's symbols to the user's, as in the program.
    """

    module: fx.GraphModule
    inputs: tuple[Access, ...]
    outputs: tuple[Access, ...]
    weights: tuple[bool, ...]
    names: Any

    @property
    def placeholders(self) -> list[fx.Node]:
        """The input nodes, in order; sizes are no inputs."""
        found = self.module.graph.find_nodes(op="placeholder")
        return [node for node in found if isinstance(node.meta["val"], torch.Tensor)]

    @property
    def results(self) -> list[fx.Node]:
        """The output nodes, in order."""
        return list(self.module.graph.output_node().args[0])

    @property
    def calls(self) -> list[fx.Node]:
        """The operator nodes, in order."""
        return [node for node in self.module.graph.nodes if node.op == "call_function"]

    def input_of(self, node: fx.Node) -> int:
        """The position of a placeholder."""
        return self.placeholders.index(node)

    def anchor(self) -> fx.Node | None:
        """The node that does the work, if the region has one."""
        anchors = [node for node in self.calls if kind_of(node) == Kind.ANCHOR]
        return anchors[0] if anchors else None

    @property
    def is_pointwise(self) -> bool:
        """Whether every operator works on one point of the domain, so that dimensions may merge."""
        return all(kind_of(node) in (Kind.ELEMENTWISE, Kind.SCALAR) for node in self.calls)

    @cached_property
    def is_coarse(self) -> bool:
        """Whether what it computes comes from 16 bits or codes, or goes to bfloat16 or codes."""
        anchor = self.anchor()
        if anchor is not None and any(word in op_name(anchor) for word in ("_integer", "_half")):
            return True
        return all(is_short(access.dtype) for access in self.outputs)

    def shape(self, node: fx.Node) -> tuple[Size, ...]:
        """Shape of what a node computes, over the user's symbols."""
        from effc.ir.symbols import size_of

        return tuple(size_of(size, self.names) for size in node.meta["val"].shape)

    def key(self) -> str:
        """Text that is equal for regions one kernel serves."""
        labels: dict[fx.Node, str] = {}
        lines = [f"{a}{'w' if w else ''}" for a, w in zip(self.inputs, self.weights, strict=True)]
        for number, node in enumerate(self.module.graph.nodes):
            labels[node] = f"%{number}"
            if node.op in ("call_function", "output"):
                value = node.meta.get("val")
                dtype = value.dtype if isinstance(value, torch.Tensor) else ""
                lines.append(f"{op_name(node)}{self._arguments(node, labels)}{dtype}")
        lines += [str(access) for access in self.outputs]
        return "\n".join(lines)

    def _arguments(self, node: fx.Node, labels: dict[fx.Node, str]) -> str:
        from effc.ir.symbols import size_of

        def show(value: Any) -> str:
            if isinstance(value, fx.Node):
                return labels[value]
            if isinstance(value, tuple | list):
                return "[" + ",".join(map(show, value)) + "]"
            return (
                str(size_of(value, self.names)) if isinstance(value, torch.SymInt) else repr(value)
            )

        keywords = sorted(node.kwargs.items())
        return show(node.args) + "".join(f",{key}={show(value)}" for key, value in keywords)


def is_short(dtype: torch.dtype) -> bool:
    """Whether the steps of a type are far above 2^-12; those of float16 are twice that."""
    return dtype == torch.bfloat16 or (dtype.itemsize == 1 and dtype != torch.bool)
