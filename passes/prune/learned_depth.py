"""Learned depth: which residual blocks go is trained, together with weights that make up for it.

TinyFusion (Fang et al., 2024, arXiv 2412.01199): blocks are taken a few at a time; all patterns of
which of them stay are options, drawn by a Gumbel softmax with straight-through gradients, while
low-rank changes of the weights learn what a recovery would. So the pattern is chosen for its loss
after recovery. The changes are thrown away; `recover` makes up for what went. Here the loss is the
divergence from the whole program instead of the task's, so that no labels are needed.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from effc.ir.coupling.call import weight_key
from effc.ir.errors import DataError
from effc.ir.opspec import op_name
from effc.ir.program import attribute
from effc.passes.bits.metrics.running import Exchanged, Values
from effc.passes.bits.metrics.study import Study
from effc.passes.calibrate.statistics import CONVOLUTION, LINEAR
from effc.passes.prune.residuals import Block
from effc.passes.recover.straight import Straight

LOCAL = 4  # blocks that patterns are enumerated over
RANK, ALPHA = 8, 16
WEIGHT_RATE, GATE_RATE = 1e-3, 1e-2
FIRST_TEMPERATURE, LAST_TEMPERATURE = 4.0, 0.1
FIRST_SCALE, LAST_SCALE = 1.0, 10.0
CLIP, STAGE = 1.0, "learn depth"


def learned_scores(study: Study, blocks: Sequence[Block], count: int, steps: int) -> list[float]:
    """How likely each block is to stay; the `count` of the chosen patterns that go score below 0.

    Args:
        study: The program and calibration data.
        blocks: That may go.
        count: How many go.
        steps: Of training.

    Raises:
        DataError: If the loss becomes no number.
    """
    gates = [
        Gate.of(len(blocks[first : first + LOCAL]), gone)
        for first, gone in zip(
            range(0, len(blocks), LOCAL), _spread(len(blocks), count), strict=True
        )
    ]
    _train(study, blocks, gates, steps)
    chances = torch.cat([gate.chances() for gate in gates]).tolist()
    stays = torch.cat([gate.best() for gate in gates]).tolist()
    return [chance if kept else chance - 1 for chance, kept in zip(chances, stays, strict=True)]


@dataclass(eq=False)
class Gate:
    """What is learned of a few blocks.

    Attributes:
        patterns: Which blocks stay, 0 or 1, float32 [patterns, blocks].
        logits: Of each pattern, float32 [patterns].
    """

    patterns: Tensor
    logits: Tensor

    @classmethod
    def of(cls, blocks: int, gone: int) -> "Gate":
        """All patterns in which so many go."""
        patterns = torch.ones(0, blocks)
        for places in itertools.combinations(range(blocks), gone):
            row = torch.ones(1, blocks)
            row[0, list(places)] = 0.0
            patterns = torch.cat([patterns, row])
        return cls(patterns, torch.zeros(len(patterns), requires_grad=True))

    def drawn(self, progress: float, draw: torch.Generator) -> Tensor:
        """A pattern, with gradients of the softmax it was drawn from: float32 [blocks]."""
        uniform = torch.rand(len(self.logits), generator=draw).clamp(1e-9, 1 - 1e-9)
        scale = FIRST_SCALE + progress * (LAST_SCALE - FIRST_SCALE)
        temperature = FIRST_TEMPERATURE + progress * (LAST_TEMPERATURE - FIRST_TEMPERATURE)
        noisy = scale * self.logits - torch.log(-torch.log(uniform))
        soft = functional.softmax(noisy / temperature, 0)
        hard = functional.one_hot(soft.argmax(), len(soft)).to(soft)
        return (hard + soft - soft.detach()) @ self.patterns

    def chances(self) -> Tensor:
        """How likely each block is to stay: [blocks]."""
        return functional.softmax(LAST_SCALE * self.logits.detach(), 0) @ self.patterns

    def best(self) -> Tensor:
        """The likeliest pattern: [blocks]."""
        return self.patterns[int(self.logits.argmax())]


def _spread(blocks: int, count: int) -> list[int]:
    """How many go of every few blocks, as evenly as can be."""
    sizes = [min(LOCAL, blocks - first) for first in range(0, blocks, LOCAL)]
    ends = np.rint(np.cumsum(sizes) * count / blocks).astype(int)
    return [int(one) for one in np.diff(ends, prepend=0)]


def _train(study: Study, blocks: Sequence[Block], gates: Sequence[Gate], steps: int) -> None:
    module, draw = study.program.forward, study.generator("prune-blocks")
    changes = _changes(module, draw)
    factors = [factor for pair in changes.values() for factor in pair]
    optimizer = torch.optim.AdamW(
        [{"params": factors, "lr": WEIGHT_RATE},
         {"params": [gate.logits for gate in gates], "lr": GATE_RATE}],
        weight_decay=0.0,
    )  # fmt: skip
    names = [spec.name for spec in study.program.signature.inputs]
    batches = itertools.chain.from_iterable(itertools.repeat(study.data))  # `cycle` keeps them all
    for step, batch in zip(range(steps), batches, strict=False):
        study.ctx.progress(STAGE, step, steps)
        inputs = [batch[name] for name in names]
        with torch.no_grad():
            reference = Exchanged(module, {}).outputs(inputs)
        masks = torch.cat([gate.drawn(step / steps, draw) for gate in gates])
        runner = Straight(module, _changed(module, changes), _Gated(blocks, masks).seen)
        loss = study.divergence(reference, runner.outputs(inputs))
        if not bool(torch.isfinite(loss)):
            raise DataError(f"prune-blocks: the loss is no number at step {step} of {steps}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(factors, CLIP)
        optimizer.step()
    study.ctx.progress(STAGE, steps, steps)


class _Gated:
    """Adds of each branch what its gate lets through."""

    def __init__(self, blocks: Sequence[Block], masks: Tensor) -> None:
        self._of = {
            branch.total: (branch.through, masks[at])
            for at, block in enumerate(blocks)
            for branch in block.branches
        }
        self._wanted = {through for through, _ in self._of.values()}
        self._values: dict[fx.Node, Any] = {}

    def seen(self, node: fx.Node, value: Any) -> Any:
        """Gate a sum; keep what sums are made of."""
        if node in self._of:
            through, mask = self._of[node]
            before = self._values[through]
            value = before + mask.to(value.dtype) * (value - before)
        if node in self._wanted:
            self._values[node] = value
        return value


def _changes(module: fx.GraphModule, draw: torch.Generator) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """Low-rank factors for the weight of every linear and convolution: [out, rank], [rank, in]."""
    known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
    found = {}
    for node in module.graph.nodes:
        weight = node.args[1] if op_name(node) in (LINEAR, CONVOLUTION) else None
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            continue
        key = weight_key(weight)
        if key not in known:
            rows, columns = attribute(module, str(weight.target)).flatten(1).shape
            right = torch.randn(RANK, columns, generator=draw) / columns**0.5
            known[key] = (torch.zeros(rows, RANK).requires_grad_(), right.requires_grad_())
        found[weight] = known[key]
    return found


def _changed(module: fx.GraphModule, changes: dict[fx.Node, tuple[Tensor, Tensor]]) -> Values:
    found: Values = {}
    for node, (left, right) in changes.items():
        weight = attribute(module, str(node.target)).detach()
        found[node] = weight + (ALPHA / RANK * left @ right).reshape(weight.shape).to(weight.dtype)
    return found
