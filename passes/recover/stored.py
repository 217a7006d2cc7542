"""Weights of a program as they are stored: in float, in int8 per row, in low-bit groups.

What is trained is a weight in float. `as_stored` gives what the program will read once that weight
is stored, with derivatives; `folded` gives the tensors to store. Both round alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx

from effc.ir.encoding import pack_codes, unpack_codes
from effc.ir.ops.grouped import zero_points
from effc.ir.ops.stored import pack_signed
from effc.ir.opspec import op_name
from effc.ir.program import attribute
from effc.passes.recover.straight import straight

CODES = "_codes"
INSIDE = 0.499  # of a step: a weight that is still rounded to its code
Tensors = dict[str, Tensor]


class Stored(Protocol):
    """A weight that nodes of one graph read.

    Attributes:
        path: Where its (first) tensor hangs.
        nodes: The nodes whose value is the weight in float.
        start: The weight to begin with, float32.
        step: Distance of two codes, broadcasting against the weight; None if it has no codes.
    """

    path: str
    nodes: tuple[fx.Node, ...]
    start: Tensor
    step: Tensor | None

    def wide_step(self) -> Tensor:
        """The step of every element; 1 without codes."""

    def as_stored(self, weight: Tensor, step: Tensor | None) -> Tensor:
        """What is read once `weight` is stored with codes `step` apart; differentiable."""

    def folded(self, weight: Tensor, step: Tensor | None) -> Tensors:
        """The tensors to store, by path."""


@dataclass(eq=False)
class Plain:
    """A weight in float32."""

    path: str
    nodes: tuple[fx.Node, ...]
    start: Tensor
    step: Tensor | None = None

    def wide_step(self) -> Tensor:
        """There are no codes."""
        return torch.ones(())

    def as_stored(self, weight: Tensor, step: Tensor | None) -> Tensor:
        """The weight itself."""
        return weight

    def folded(self, weight: Tensor, step: Tensor | None) -> Tensors:
        """The weight itself."""
        return {self.path: weight.detach().clone()}


@dataclass(eq=False)
class Codes:
    """A weight in integer codes around zero points.

    Attributes:
        scale_path: Where its scales hang.
        zero: Codes of 0.0, broadcasting against the codes.
        limits: Smallest and largest code.
        scale_dtype: How scales are stored.
        packed_bits: Width of a code where they are packed, else 0.
        group: Features that share a scale; 0 for those of an output channel.
    """

    path: str
    nodes: tuple[fx.Node, ...]
    start: Tensor
    step: Tensor | None
    scale_path: str
    zero: Tensor
    limits: tuple[int, int]
    scale_dtype: torch.dtype
    packed_bits: int = 0
    group: int = 0

    def wide_step(self) -> Tensor:
        """The step of every element as it is stored."""
        return self._wide(self.step)[0]

    def as_stored(self, weight: Tensor, step: Tensor | None) -> Tensor:
        """Codes times steps; both pass gradients on through their roundings."""
        wide, zero = self._wide(step)
        shifted = weight / wide + zero
        codes = straight(self._codes(weight, wide), shifted.clamp(*self.limits))
        return (codes - zero) * wide

    def folded(self, weight: Tensor, step: Tensor | None) -> Tensors:
        """Codes and scales."""
        wide, _ = self._wide(step)
        codes = self._codes(weight, wide)
        scale = self._checked(step).detach().to(self.scale_dtype)
        return {self.path: self._packed(codes), self.scale_path: scale}

    def _packed(self, codes: Tensor) -> Tensor:
        if not self.packed_bits:
            return codes.to(torch.int8)
        if not self.group:
            return pack_signed(codes.to(torch.int8), self.packed_bits)
        return pack_codes(codes.to(torch.uint8), self.packed_bits)

    def _codes(self, weight: Tensor, wide: Tensor) -> Tensor:
        values = weight.detach() / wide.detach()
        return (torch.round(values) + self._spread(self.zero)).clamp(*self.limits)

    def _wide(self, step: Tensor | None) -> tuple[Tensor, Tensor]:
        """The step as it is stored, and the zero point, of every element."""
        checked = self._checked(step)
        rounded = straight(checked.detach().to(self.scale_dtype).float(), checked)
        return self._spread(rounded), self._spread(self.zero)

    def _spread(self, value: Tensor) -> Tensor:
        if not self.group:
            return value
        return value.repeat_interleave(self.group, -1)[..., : self.start.shape[-1]]

    @staticmethod
    def _checked(step: Tensor | None) -> Tensor:
        if step is None:
            raise AssertionError("codes have a step")
        return step


def stored_weight(module: fx.GraphModule, node: fx.Node, original: Tensor | None) -> Stored | None:
    """The weight a node gives; None if it is none that can be trained.

    Args:
        module: Whose graph holds the node.
        node: What a layer reads as its weight.
        original: The weight before compression where its shape is the same: where codes hide
            differences, training begins at the value nearest to it that has the same codes.
    """
    if node.op == "get_attr":
        tensor = attribute(module, str(node.target)).detach()
        is_trained = tensor.dtype == torch.float32
        return Plain(str(node.target), (node,), tensor) if is_trained else None
    make = {"effc.dequantize.default": _per_channel, "effc.dequantize_grouped.default": _grouped}
    maker = make.get(op_name(node))
    found = maker(module, node) if maker else None
    if found is None or original is None or original.shape != found.start.shape:
        return found
    margin = INSIDE * found.wide_step().abs()
    found.start = torch.clamp(original.detach(), found.start - margin, found.start + margin)
    return found


def original_path(path: str) -> str:
    """The path a weight had before its codes took its place."""
    return path.removesuffix(CODES)


def _is_constant(nodes: Iterable[fx.Node]) -> bool:
    return all(one.op == "get_attr" for one in nodes)


def _per_channel(module: fx.GraphModule, node: fx.Node) -> Codes | None:
    codes_node, scale_node, zero_node = node.args[:3]
    bits = 8
    if op_name(codes_node) == "effc.unpack_signed.default" and zero_node is None:
        stored_node, bits, shape = codes_node.args
        codes_node = stored_node
    known = [one for one in (codes_node, scale_node, zero_node) if one is not None]
    if not _is_constant(known):
        return None
    codes, scale = (attribute(module, str(one.target)) for one in (codes_node, scale_node))
    packed = 0 if bits == 8 else bits
    if packed:
        codes = torch.ops.effc.unpack_signed(codes, bits, shape)
    if codes.dtype != torch.int8:
        return None
    zero = (
        torch.zeros(()) if zero_node is None else attribute(module, str(zero_node.target)).float()
    )
    start = (codes.float() - zero) * scale
    paths = str(codes_node.target), str(scale_node.target)
    largest = (1 << (bits - 1)) - 1
    return Codes(
        paths[0], (node,), start, scale.detach(), paths[1], zero, (-largest, largest), scale.dtype,
        packed,
    )  # fmt: skip


def _grouped(module: fx.GraphModule, node: fx.Node) -> Codes | None:
    codes_node, scale_node, zero_node, bits, group, features, *table = node.args
    if not _is_constant(node.all_input_nodes):
        return None
    codes, scale = (attribute(module, str(one.target)) for one in (codes_node, scale_node))
    if codes.dim() != 2 or any(table) or len(scale) != len(codes):
        return None  # a sum of planes, codes of a table, one scale for all rows
    stored_zero = None if zero_node is None else attribute(module, str(zero_node.target))
    zero = zero_points(scale, stored_zero, bits).float()
    step = scale.detach().float()
    spread = [one.repeat_interleave(group, -1)[..., :features] for one in (zero, step)]
    start = (unpack_codes(codes, bits, features).float() - spread[0]) * spread[1]
    paths, limits = (str(codes_node.target), str(scale_node.target)), (0, (1 << bits) - 1)
    return Codes(
        paths[0], (node,), start, step, paths[1], zero, limits, scale.dtype, bits, group
    )  # fmt: skip
