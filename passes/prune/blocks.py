"""Cuts depth: whole residual blocks."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import DataError, UsageError
from effc.ir.program import FORWARD, Program
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.metrics.running import Exchanged
from effc.passes.bits.metrics.study import Study
from effc.passes.prune.learned_depth import learned_scores
from effc.passes.prune.residuals import Block, blocks_of

LEARNED = "learned"
LEVELS = ("block", "branch")
IMPORTANCES = ("cosine", "output-divergence", LEARNED, "last", "random")


@dataclass(frozen=True)
class PruneBlocks(Pass):
    """Removes the residual blocks that change what they read least; what they read goes on.

    Attributes:
        ratio: The share of blocks that goes, rounded down, at least one.
        level: `block`, all branches one module adds up, or `branch`, each for itself.
        importance: `cosine`, one minus the mean cosine of what a block reads and computes
            (ShortGPT, Men et al., 2024, arXiv 2403.03853); `output-divergence`, measured with the
            block gone; `learned`, masks trained for the loss after recovery (TinyFusion); `last`,
            the last ones, as after `recover{depths=...}`; `random`.
        steps: Of training `learned` masks.
        keep: How many blocks stay, instead of `ratio`.
    """

    name: ClassVar[str] = "prune-blocks"
    ratio: float = 0.25
    level: str = "block"
    importance: str = "cosine"
    steps: int = 300
    keep: int = 0

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Score and remove.

        Raises:
            UsageError: For an option that makes no sense, or where there is no block.
            DataError: If the importance needs data and there is none.
        """
        self._check()
        blocks = blocks_of(program, self.level == "block")
        if not blocks:
            raise UsageError(f"{program.name} has no residual block that can go")
        check_patterns(ctx, [block.name for block in blocks])
        free = [block for block in blocks if not ctx.is_excluded(block.name)]
        if self.keep >= len(blocks):
            raise UsageError(f"prune-blocks: keep={self.keep} of {len(blocks)} blocks cuts nothing")
        count = len(blocks) - self.keep if self.keep else math.floor(self.ratio * len(blocks))
        count = min(max(1, count), len(free))
        scores = self._scores(program, ctx, free, count) if free else []
        gone = sorted(np.argsort(scores, kind="stable")[:count].tolist())
        rows = [
            {"name": block.name, "score": float(score), "kept": at not in gone}
            for at, (block, score) in enumerate(zip(free, scores, strict=True))
        ]
        if not gone:
            return Outcome(False, {"blocks": rows})
        _remove(program, [free[at] for at in gone], self.name)
        return Outcome(True, {"blocks": rows})

    def _check(self) -> None:
        if self.keep < 0:
            raise UsageError(f"prune-blocks: keep={self.keep} is negative")
        if not 0 < self.ratio < 1:
            raise UsageError(f"prune-blocks: ratio={self.ratio:g} is not between 0 and 1")
        for value, known in ((self.level, LEVELS), (self.importance, IMPORTANCES)):
            if value not in known:
                raise UsageError(f"prune-blocks: {value!r} is none of {', '.join(known)}")
        if self.steps < 1:
            raise UsageError(f"prune-blocks: steps={self.steps} trains nothing")

    def _scores(
        self, program: Program, ctx: PassContext, blocks: list[Block], count: int
    ) -> list[float]:
        if self.importance == "last":
            return [float(-at) for at in range(len(blocks))]
        if self.importance == "random":
            return [float(ctx.rng(block.name).random()) for block in blocks]
        if ctx.calibration is None:
            raise DataError(f"importance={self.importance} needs calibration data")
        study = Study(program, (), ctx)
        if self.importance == LEARNED:
            return learned_scores(study, blocks, count, self.steps)
        score = turn if self.importance == "cosine" else _damage
        return [score(study, block) for block in blocks]


def turn(study: Study, block: Block) -> float:
    """One minus the mean cosine between rows of what a block reads and computes."""
    found = []
    for batch in study.sample:
        before, after = (_rows(batch.values[node]) for node in (block.before, block.after))
        found.append(torch.cosine_similarity(before, after, dim=-1).mean())
    return float(1 - torch.stack(found).mean())


def _damage(study: Study, block: Block) -> float:
    """Mean divergence of the outputs without a block."""
    found = []
    for batch in study.sample:
        with torch.no_grad():
            runner = Without(study.program.forward, [block])
            outputs = runner.outputs(batch.inputs)
        found.append(float(study.divergence(batch.outputs, outputs)))
    return float(np.mean(found))


class Without(Exchanged):
    """Runs a graph with the branches of some blocks masked to zero."""

    def __init__(self, module: fx.GraphModule, blocks: list[Block]) -> None:
        super().__init__(module, {})
        self._totals = {branch.total: branch for block in blocks for branch in block.branches}

    def run_node(self, n: fx.Node) -> Any:
        """Add nothing where a branch is masked."""
        branch = self._totals.get(n)
        return super().run_node(n) if branch is None else self.env[branch.through] + 0


def _rows(value: torch.Tensor) -> torch.Tensor:
    """Vectors over the channels: dimension 1 of maps, else the last."""
    if value.dim() == 4:
        value = value.movedim(1, -1)
    return value.reshape(-1, value.shape[-1]).double()


def _remove(program: Program, blocks: list[Block], rule: str) -> None:
    editor = Editor(program, FORWARD, rule)
    replaced: dict[fx.Node, fx.Node] = {}
    for block in blocks:
        for branch in block.branches:
            through = replaced.get(branch.through, branch.through)
            editor.replace(branch.total, through)
            replaced[branch.total] = through
    editor.remove_dead()
    editor.finish()
