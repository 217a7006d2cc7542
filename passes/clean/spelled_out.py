"""Rules that recognise operators spelled out as arithmetic: RMS norm and SiLU.

RMS norm (Zhang and Sennrich, 2019, arXiv 1910.07467) is `x * rsqrt(mean(x^2) + eps) * weight`, in
half precision often computed in float32 in between.
"""

from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.passes.clean.matching import (
    NodeRule,
    aten,
    dtype,
    has_one_user,
    is_call,
    is_number,
    is_tensor,
    rank,
    sizes,
)

MULTIPLY = (aten.mul.Tensor,)
HALF = (torch.float16, torch.bfloat16)


def _operands(node: Any) -> list[tuple[Any, Any]]:
    """Both orders of the factors of a product of tensors."""
    if not is_call(node, *MULTIPLY) or not all(map(is_tensor, node.args[:2])):
        return []
    first, second = node.args[:2]
    return [(first, second), (second, first)]


def _is_square_of(node: Any, x: fx.Node) -> bool:
    if is_call(node, aten.pow.Tensor_Scalar):
        return node.args[0] is x and node.args[1] == 2
    if is_call(node, aten.square.default):
        return node.args[0] is x
    return is_call(node, *MULTIPLY) and node.args[0] is x and node.args[1] is x


def _radicand(node: Any) -> Any:
    """The value whose inverse square root a node computes."""
    if is_call(node, aten.rsqrt.default):
        return node.args[0]
    if is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == -0.5:
        return node.args[0]
    if is_call(node, aten.reciprocal.default) and is_call(node.args[0], aten.sqrt.default):
        return node.args[0].args[0]
    return None


def _norm_of(x: fx.Node, inverse: Any) -> tuple[int, float] | None:
    """How many trailing dimensions `inverse = rsqrt(mean(x^2) + eps)` covers, and eps."""
    total = _radicand(inverse)
    if not is_call(total, aten.add.Tensor, aten.add.Scalar) or not is_number(total.args[1]):
        return None
    mean = total.args[0]
    if not is_call(mean, aten.mean.dim) or not _is_square_of(mean.args[0], x):
        return None
    dims: Any = mean.args[1]
    count = rank(x)
    covered = sorted(dim % count for dim in dims)
    is_trailing = bool(covered) and covered == list(range(count - len(covered), count))
    keeps = len(mean.args) > 2 and bool(mean.args[2])
    is_known = all(isinstance(entry, int) for entry in sizes(x)[-len(covered) :])
    return (len(covered), total.args[1]) if is_trailing and keeps and is_known else None


def _find_norm(node: fx.Node) -> tuple[fx.Node, int, float] | None:
    for x, inverse in _operands(node):
        found = _norm_of(x, inverse) if dtype(x) == dtype(node) else None
        if found is not None:
            return (x, *found)
    return None


def _to_norm(node: fx.Node, editor: Editor) -> None:
    found = _find_norm(node)
    if found is None:
        raise TypeError(f"{node.name} is not a norm")
    x, covered, eps = found
    shape = list(sizes(x)[-covered:])
    new = editor.call(node, aten.rms_norm.default, x, shape, None, eps, before=node)
    editor.replace(node, new)


def _find_weight(node: fx.Node) -> tuple[Any, fx.Node] | None:
    """A norm without weight, and what it is multiplied with, if that has the norm's shape."""
    for norm, weight in _operands(node):
        if not is_call(norm, aten.rms_norm.default) or norm.args[2] is not None:
            continue
        if list(sizes(weight)) == list(norm.args[1]) and dtype(weight) == dtype(norm):
            return norm, weight
    return None


def _norm_has_other_users(node: fx.Node, program: Program) -> str | None:
    found = _find_weight(node)
    if found is not None and not has_one_user(found[0]):
        return "the norm without its weight has other users"
    return None


def _add_weight(node: fx.Node, editor: Editor) -> None:
    found = _find_weight(node)
    if found is None:
        raise TypeError(f"{node.name} is not a weighted norm")
    norm, weight = found
    args = (*norm.args[:2], weight, norm.args[3])
    editor.replace(node, editor.call(node, aten.rms_norm.default, *args, before=node))


def _is_widened_norm(node: fx.Node) -> bool:
    """A norm of a half-precision tensor computed in float32 and rounded back."""
    if not is_call(node, aten._to_copy.default) or dtype(node) not in HALF:
        return False
    norm: Any = node.args[0]
    if not is_call(norm, aten.rms_norm.default) or norm.args[2] is not None:
        return False
    cast = norm.args[0]
    is_widened = is_call(cast, aten._to_copy.default) and dtype(cast) == torch.float32
    return is_widened and dtype(cast.args[0]) == dtype(node) and has_one_user(norm)


def _narrow_norm(node: fx.Node, editor: Editor) -> None:
    norm: Any = node.args[0]
    args = (norm.args[0].args[0], *norm.args[1:])
    editor.replace(node, editor.call(node, aten.rms_norm.default, *args, before=node))


def _gated(node: fx.Node) -> Any:
    """The x of `x * sigmoid(x)`."""
    for x, gate in _operands(node):
        if is_call(gate, aten.sigmoid.default) and gate.args[0] is x and dtype(x) == dtype(node):
            return x
    return None


def _to_silu(node: fx.Node, editor: Editor) -> None:
    editor.replace(node, editor.call(node, aten.silu.default, _gated(node), before=node))


RULES = (
    NodeRule("rms-norm", lambda node: _find_norm(node) is not None, _to_norm),
    NodeRule("rms-norm-precision", _is_widened_norm, _narrow_norm),
    NodeRule(
        "rms-norm-weight",
        lambda node: _find_weight(node) is not None,
        _add_weight,
        _norm_has_other_users,
    ),
    NodeRule("silu", lambda node: _gated(node) is not None, _to_silu),
)
