"""How far a program's outputs are from its own in float, and directions of steepest change.

Without labels the program in float is the reference. Where an output is made by a linear layer, its
last dimension is taken for logits, and the divergence is the mean Kullback-Leibler divergence of
the distributions; elsewhere it is the squared error over the energy of the reference. Both are 0
with derivative 0 at the reference, so that their second derivative H says what a small change d of
the weights costs: d^T H d / 2. `scores` draws vectors g with E[g g^T] = H by one backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx
from torch.nn import functional

from effc.ir.opspec import Kind, kind_of, op_name

LINEAR = "aten.linear.default"
MATRIX = {LINEAR, "aten.addmm.default", "aten.mm.default", "aten.matmul.default"}
TINY = 1e-30
Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Divergence:
    """What outputs are compared by.

    Attributes:
        is_logits: Of each floating output, whether its last dimension holds logits.
    """

    is_logits: tuple[bool, ...]

    @classmethod
    def of(cls, module: fx.GraphModule) -> "Divergence":
        """Read off what makes the outputs of a graph."""
        results = module.graph.output_node().args[0]
        nodes = results if isinstance(results, tuple | list) else (results,)
        return cls(tuple(_is_logits(n) for n in nodes if isinstance(n, fx.Node) and _is_float(n)))

    def __call__(self, reference: Tensors, found: Tensors) -> torch.Tensor:
        """Sum over the floating outputs: a number, differentiable by `found`."""
        pairs = zip(_floats(reference), _floats(found), self.is_logits, strict=True)
        total = torch.zeros(())
        for expected, value, is_logits in pairs:
            compare = _kl if is_logits else _squared
            total = total + compare(expected, value)
        return total

    def score(self, reference: Tensors, found: Tensors, draw: torch.Generator) -> torch.Tensor:
        """A number whose gradient by the weights, at the reference, is a draw of g.

        Logits: the log likelihood of labels drawn from the reference's own distribution, over the
        root of their number. Other outputs: a product with random signs, scaled to match.
        """
        pairs = zip(_floats(reference), _floats(found), self.is_logits, strict=True)
        total = torch.zeros(())
        for expected, value, is_logits in pairs:
            drawn = _label_score if is_logits else _sign_score
            total = total + drawn(expected, value, draw)
        return total

    def whitened(self, reference: Tensors, found: Tensors) -> torch.Tensor:
        """The change of the outputs as a vector whose squared length, halved, is the divergence.

        To second order for logits, exactly for others: float32 [all elements of the outputs].
        """
        pairs = zip(_floats(reference), _floats(found), self.is_logits, strict=True)
        return torch.cat([_white(expected, value, logits) for expected, value, logits in pairs])


def _kl(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    p = functional.log_softmax(_rows(expected).double(), -1)
    q = functional.log_softmax(_rows(found).double(), -1)
    return (p.exp() * (p - q)).sum(-1).mean()


def _squared(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    energy = expected.double().square().sum().clamp(min=TINY)
    return (expected - found).double().square().sum() / energy


def _label_score(
    expected: torch.Tensor, found: torch.Tensor, draw: torch.Generator
) -> torch.Tensor:
    labels = torch.multinomial(_rows(expected).softmax(-1), 1, generator=draw)
    chosen = functional.log_softmax(_rows(found), -1).gather(-1, labels)
    return chosen.sum() / len(labels) ** 0.5


def _sign_score(expected: torch.Tensor, found: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    signs = torch.randint(0, 2, expected.shape, generator=draw) * 2.0 - 1.0
    scale = (2.0 / expected.square().sum().clamp(min=TINY)) ** 0.5
    return (found * signs).sum() * scale


def _white(expected: torch.Tensor, found: torch.Tensor, is_logits: bool) -> torch.Tensor:
    if not is_logits:
        energy = expected.square().sum().clamp(min=TINY)
        return ((found - expected) * (2.0 / energy) ** 0.5).flatten()
    p, change = _rows(expected).softmax(-1), _rows(found - expected)
    centred = change - (p * change).sum(-1, keepdim=True)
    return (p.sqrt() * centred / len(p) ** 0.5).flatten()


def _rows(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(-1, value.shape[-1])


def _floats(values: Tensors) -> list[torch.Tensor]:
    return [value for value in values if value.is_floating_point()]


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_logits(node: fx.Node) -> bool:
    """Whether a value is what a linear computes, seen from other sides or with a bias added."""
    while op_name(node) not in MATRIX:
        tensors = [one for one in node.all_input_nodes if one.op == "call_function"]
        is_passed = node.op == "call_function" and kind_of(node) in (Kind.VIEW, Kind.ELEMENTWISE)
        if not is_passed or len(tensors) != 1:
            return False
        node = tensors[0]
    return True
