"""Spell out linear attention: as products where a step's factor is a number, else step by step."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.matching import NodeRule, is_call
from effc.passes.lower.chain import Chain

aten = torch.ops.aten
LONGEST = 1024  # steps that are written one after the other
LEAST_DECAY = -104.0  # its exponential is 0 in float32; of -inf, no difference is a number


@dataclass(frozen=True)
class DecomposeLinearAttention(Pass):
    """Replace linear attention by operators that have kernels."""

    name: ClassVar[str] = "decompose-linear-attention"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply the rule until it fits no more."""
        rewrites = apply(program, (RULE,))
        return Outcome(rewrites.changed, dict(rewrites.fired), tuple(rewrites.refusals))


@dataclass(frozen=True)
class _Operands:
    """What a call reads, in float32; the query times the scale."""

    query: fx.Node
    key: fx.Node
    value: fx.Node
    past: fx.Node | None
    decay: fx.Node | None
    beta: fx.Node | None


def _is_linear(node: fx.Node) -> bool:
    return is_call(node, torch.ops.effc.linear_attention.default)


def _shape(node: fx.Node) -> list[int | torch.SymInt]:
    return list(node.meta["val"].shape)


def _is_parallel(node: fx.Node) -> bool:
    """Whether no step corrects the state or decays its rows apart."""
    decay, beta = node.args[4:6]
    return beta is None and (decay is None or _shape(decay)[3] == 1)


def _refusal(node: fx.Node, program: Program) -> str | None:
    heads, steps = _shape(node.args[0])[1:3]
    if steps == 0:
        return "it has no steps"
    sizes = [heads, *_shape(node.args[1])[1:2], _shape(node.args[1])[3], _shape(node.args[2])[3]]
    if not all(isinstance(size, int) for size in sizes):
        return "a number of heads or features is symbolic"
    if _is_parallel(node):
        return None
    if not isinstance(steps, int):
        return "the number of its steps is symbolic"
    return f"it has more than {LONGEST} steps" if steps > LONGEST else None


def _spell_out(node: fx.Node, editor: Editor) -> None:
    new = Chain(editor, node)
    *given, scale = node.args
    wide = [None if part is None else _cast(new, part, torch.float32) for part in given]
    operands = _Operands(new(aten.mul.Tensor, wide[0], scale), *wide[1:])
    is_single = _shape(given[0])[2] == 1
    spelled = _products if _is_parallel(node) and not is_single else _steps
    results = spelled(new, operands)
    dtypes = [part.dtype for part in node.meta["val"]]
    finished = [_cast(new, part, dtype) for part, dtype in zip(results, dtypes, strict=True)]
    for user in list(node.users):
        editor.replace(user, finished[user.args[1]])


def _cast(new: Chain, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    is_there = x.meta["val"].dtype == dtype
    return x if is_there else new(aten._to_copy.default, x, dtype=dtype)


def _products(new: Chain, given: _Operands) -> tuple[fx.Node, fx.Node]:
    """Scores of all pairs of steps, times the decay between them, the later step being the query's.

    Sums of logarithms are differences of sums from the first step on.
    """
    query, key, value = given.query, given.key, given.value
    groups = _shape(query)[1] // _shape(key)[1]
    total, ends = None, None
    if given.decay is not None:
        decay = new(aten.clamp_min.default, new(aten.squeeze.dim, given.decay, 3), LEAST_DECAY)
        total = new(aten.cumsum.default, decay, 2)
        last = new(aten.slice.Tensor, total, 2, -1, 1 << 62)
        ends = new(aten.exp.default, new(aten.unsqueeze.default, last, 3))  # [batch, heads, 1, 1]
        rest = new(aten.exp.default, new(aten.sub.Tensor, last, total))
        weighted = new(aten.mul.Tensor, key, new(aten.unsqueeze.default, rest, 3))
    else:
        weighted = key
    state = new(aten.matmul.default, new(aten.permute.default, weighted, [0, 1, 3, 2]), value)
    if given.past is not None:
        before = given.past if ends is None else new(aten.mul.Tensor, given.past, ends)
        state = new(aten.add.Tensor, state, before)
    key, value = _repeated(new, key, groups), _repeated(new, value, groups)
    scores = new(aten.matmul.default, query, new(aten.permute.default, key, [0, 1, 3, 2]))
    if total is not None:
        total = _repeated(new, total, groups)
        ahead = new(aten.unsqueeze.default, total, 3)
        between = new(aten.sub.Tensor, ahead, new(aten.unsqueeze.default, total, 2))
        scores = new(
            aten.mul.Tensor, scores, new(aten.exp.default, new(aten.tril.default, between))
        )
    result = new(aten.matmul.default, new(aten.tril.default, scores), value)
    if given.past is None:
        return result, state
    held = new(aten.matmul.default, query, _repeated(new, given.past, groups))
    if total is not None:
        held = new(aten.mul.Tensor, held, new(aten.exp.default, ahead))
    return new(aten.add.Tensor, result, held), state


def _repeated(new: Chain, x: fx.Node, groups: int) -> fx.Node:
    """Every head as often as query heads share it."""
    return x if groups == 1 else new(aten.repeat_interleave.self_int, x, groups, 1)


def _steps(new: Chain, given: _Operands) -> tuple[fx.Node, fx.Node]:
    """The reference of `effc.linear_attention`, step by step; at least one step."""
    heads, steps, width = _shape(given.query)[1:]
    shared, depth = _shape(given.key)[1], _shape(given.value)[3]
    state, rows = given.past, []
    for step in range(steps):
        key, value = (new(aten.select.int, part, 2, step) for part in (given.key, given.value))
        if given.decay is not None and state is not None:
            factor = new(aten.exp.default, new(aten.select.int, given.decay, 2, step))
            state = new(aten.mul.Tensor, state, new(aten.unsqueeze.default, factor, 3))
        if given.beta is not None:
            if state is not None:
                row = new(aten.unsqueeze.default, key, 2)
                known = new(aten.squeeze.dim, new(aten.matmul.default, row, state), 2)
                value = new(aten.sub.Tensor, value, known)
            value = new(aten.mul.Tensor, new(aten.select.int, given.beta, 2, step), value)
        column = new(aten.unsqueeze.default, key, 3)
        written = new(aten.mul.Tensor, column, new(aten.unsqueeze.default, value, 2))
        state = written if state is None else new(aten.add.Tensor, state, written)
        query = new(aten.select.int, given.query, 2, step)
        query = new(aten.reshape.default, query, [-1, shared, heads // shared, width])
        read = new(aten.matmul.default, query, state)
        rows.append(new(aten.reshape.default, read, [-1, heads, 1, depth]))
    assert state is not None  # there is at least one step
    return rows[0] if steps == 1 else new(aten.cat.default, rows, 2), state


RULE = NodeRule("linear-attention", _is_linear, _spell_out, _refusal)
