"""What of a program is trained: weights with their changes, biases, parameters of norms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, set_attribute
from effc.ir.provenance import label
from effc.passes.base import PassContext
from effc.passes.bits.weights import TensorKey, tensor_key
from effc.passes.recover.changes import CHANGES, Change, Scaled, Sizes, mask_of
from effc.passes.recover.stored import Plain, Stored, Tensors, original_path, stored_weight

PRODUCTS = {
    "aten.linear.default": (1, 2),
    "aten.conv1d.default": (1, 2),
    "aten.conv2d.default": (1, 2),
    "aten.conv3d.default": (1, 2),
    "aten.conv_transpose1d.default": (1, 2),
    "aten.conv_transpose2d.input": (1, 2),
    "aten.embedding.default": (0, 9),
}
NORMS = {
    "aten.layer_norm.default": (2, 3),
    "aten.group_norm.default": (2, 3),
    "aten.rms_norm.default": (2, 9),
    "aten.batch_norm.default": (1, 2),
    "aten.mul.Tensor": (0, 1),
    "aten.add.Tensor": (0, 1),
}
SMALL = ("bias", "norm")
SETS = (*SMALL, "head", *CHANGES)
Values = dict[fx.Node, Tensor]


@dataclass(eq=False)
class Trainable:
    """A weight that is trained.

    Attributes:
        name: Of the first layer that reads it.
        stored: How it is stored.
        change: How it may change.
        step: A factor per step of codes, as its logarithm; None without codes.
        bias: Of the layer whose output channels a change scales: the bias, and what is added.
    """

    name: str
    stored: Stored
    change: Change
    step: Tensor | None = None
    bias: tuple[Plain, Tensor] | None = None

    @property
    def tensors(self) -> Tensors:
        """What is trained, by name."""
        found = {f"{self.stored.path}/{name}": one for name, one in self.change.tensors.items()}
        if self.step is not None:
            found[f"{self.stored.path}/step"] = self.step
        if self.bias is not None:
            found[f"{self.bias[0].path}/shift"] = self.bias[1]
        return found

    def values(self) -> Values:
        """What nodes give, with derivatives."""
        weight = self.stored.as_stored(self.change.applied(), self._step())
        found = dict.fromkeys(self.stored.nodes, weight)
        if self.bias is not None:
            found |= dict.fromkeys(self.bias[0].nodes, self._bias())
        return found

    def folded(self) -> Tensors:
        """The tensors to store, by path."""
        with torch.no_grad():
            found = self.stored.folded(self.change.applied(), self._step())
            if self.bias is not None:
                found[self.bias[0].path] = self._bias().detach().clone()
        return found

    def _step(self) -> Tensor | None:
        step = self.stored.step
        if step is None or self.step is None:
            return step
        factor = self.change.factor() if isinstance(self.change, Scaled) else 1.0
        return step * torch.exp(self.step) * factor

    def _bias(self) -> Tensor:
        if self.bias is None:
            raise AssertionError("no bias")
        plain, shift = self.bias
        factor = self.change.factor().flatten() if isinstance(self.change, Scaled) else 1.0
        return plain.start * factor + shift


@dataclass
class Selection:
    """Finds what is trained in the method `forward` of a program.

    Attributes:
        program: What is trained.
        original: The program before compression, where shapes agree.
        ctx: Exclusions and random numbers.
        sets: Of `SETS`; at most one of `CHANGES`.
        sizes: Settings of changes.
    """

    program: Program
    original: Program
    ctx: PassContext
    sets: Sequence[str]
    sizes: Sizes
    _taken: dict[TensorKey, Trainable] = field(default_factory=dict)
    _claimed: set[TensorKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Check the sets.

        Raises:
            UsageError: If there is none of a name, or two would change the same weight.
        """
        for name in self.sets:
            if name not in SETS:
                raise UsageError(f"recover: no parameters {name!r}; there are: {', '.join(SETS)}")
        chosen = [name for name in self.sets if name in CHANGES]
        if len(chosen) > 1:
            raise UsageError(f"recover: {chosen[0]} and {chosen[1]} change the same weights")

    def found(self) -> list[Trainable]:
        """Everything that is trained, each tensor once."""
        module = self.program.forward
        self._module, self._weights = module, _known_weights(self.original)
        chosen = [name for name in self.sets if name in CHANGES]
        if "head" in self.sets:
            last = [n for n in module.graph.nodes if op_name(n) in PRODUCTS][-1:]
            for node in last:
                self._weight(node, "full", 1.0)
        for node in module.graph.nodes:
            if self.ctx.is_excluded(label(node)):
                continue
            if chosen and op_name(node) in PRODUCTS:
                self._weight(node, chosen[0], self.sizes.share)
            for place in self._small_places(node, chosen):
                self._small(node, place)
        return list(self._taken.values())

    def _small_places(self, node: fx.Node, chosen: list[str]) -> Iterator[int]:
        wants = set(self.sets) | (set(SMALL) if chosen else set())
        if op_name(node) in PRODUCTS and "bias" in wants:
            yield PRODUCTS[op_name(node)][1]
        if op_name(node) in NORMS and "norm" in wants:
            yield from NORMS[op_name(node)]

    def _weight(self, node: fx.Node, change: str, share: float) -> None:
        place, bias_place = PRODUCTS[op_name(node)]
        source = node.args[place]
        if not isinstance(source, fx.Node):
            return
        stored = self._stored(source)
        key = self._key(stored) if stored else None
        if stored is None or key is None:
            return
        if key in self._taken:
            known = self._taken[key].stored
            known.nodes = tuple(dict.fromkeys((*known.nodes, *stored.nodes)))
            return
        if stored.step is None and change in ("step", "rounding"):
            return
        rng = self.ctx.rng(f"recover/{stored.path}")
        made = CHANGES[change](stored, mask_of(stored.start), self.sizes, rng)
        step = None
        if stored.step is not None and change != "rounding":
            step = torch.zeros_like(stored.step).requires_grad_()
        bias = self._scaled_bias(node, bias_place) if change == "scale-shift" else None
        self._taken[key] = Trainable(label(node), stored, made, step, bias)

    def _scaled_bias(self, node: fx.Node, place: int) -> tuple[Plain, Tensor] | None:
        plain = self._plain(node, place)
        if plain is None or self._is_known(plain):
            return None
        self._claimed.add(self._key(plain))
        return plain, torch.zeros_like(plain.start).requires_grad_()

    def _small(self, node: fx.Node, place: int) -> None:
        plain = self._plain(node, place)
        if plain is None or self._is_known(plain):
            return
        change = CHANGES["full"](plain, None, self.sizes, self.ctx.rng(plain.path))
        self._taken[self._key(plain)] = Trainable(label(node), plain, change)

    def _plain(self, node: fx.Node, place: int) -> Plain | None:
        source = node.args[place] if place < len(node.args) else None
        if not isinstance(source, fx.Node) or source.op != "get_attr":
            return None
        stored = stored_weight(self._module, source, None)
        if not isinstance(stored, Plain) or stored.start.dim() != 1:
            return None
        stored.nodes = self._readers(stored.path)
        return stored

    def _stored(self, source: fx.Node) -> Stored | None:
        codes = source.all_input_nodes[0] if source.op == "call_function" else source
        original = self._weights.get(original_path(str(codes.target)))
        stored = stored_weight(self._module, source, original)
        if isinstance(stored, Plain):
            stored.nodes = self._readers(stored.path)
        return stored

    def _readers(self, path: str) -> tuple[fx.Node, ...]:
        key = tensor_key(attribute(self._module, path))
        nodes = self._module.graph.find_nodes(op="get_attr")
        return tuple(n for n in nodes if tensor_key(attribute(self._module, n.target)) == key)

    def _is_known(self, stored: Stored) -> bool:
        key = self._key(stored)
        return key in self._taken or key in self._claimed

    def _key(self, stored: Stored) -> TensorKey:
        return tensor_key(attribute(self._module, stored.path))


def fold(program: Program, tensors: Mapping[str, Tensor]) -> None:
    """Put trained tensors in place of the program's, wherever it reads the same memory."""
    module = program.forward
    new = {tensor_key(attribute(module, path)): value for path, value in tensors.items()}
    for owner in program.methods.values():
        for node in owner.graph.find_nodes(op="get_attr"):
            value = new.get(tensor_key(attribute(owner, str(node.target))))
            if value is not None:
                set_attribute(owner, str(node.target), value)


def _known_weights(program: Program) -> dict[str, Tensor]:
    return {name: one for name, one in program.weights().items() if one.dtype == torch.float32}
