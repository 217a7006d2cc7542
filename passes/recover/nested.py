"""Sub-models of the first blocks, trained together with the whole.

Sorted fine-tuning (SoFT, Valipour et al., 2023, arXiv 2309.08968): the loss is summed over models
that end after some of the blocks and share all that follows them, such as the last norm and the
head. So one set of weights serves several depths: `prune-blocks{importance=last}` cuts to one.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.passes.bits.metrics.running import Values
from effc.passes.prune.residuals import Block, blocks_of
from effc.passes.recover.straight import Straight


class Nested:
    """Runs the first blocks of a program.

    Args:
        program: Whose residual blocks are counted.
        depths: How many of them each sub-model has.

    Raises:
        UsageError: If there are not more blocks than that.
    """

    def __init__(self, program: Program, depths: Sequence[int]) -> None:
        self._module = program.forward
        blocks = blocks_of(program, is_whole=True) if depths else []
        for depth in depths:
            if not 0 < depth < len(blocks):
                raise UsageError(
                    f"recover: depth {depth} is no part of {len(blocks)} residual blocks"
                )
        self._ends = [blocks[depth:] for depth in depths]

    def outputs(self, inputs: tuple[Tensor, ...], known: Values) -> list[list[Tensor]]:
        """Outputs of every sub-model.

        Args:
            inputs: In the order of the signature.
            known: Trained values.
        """
        return [
            Straight(self._module, known, _Through(gone).seen).outputs(inputs)
            for gone in self._ends
        ]


class _Through:
    """Lets what blocks read go on in the place of what they compute."""

    def __init__(self, gone: Sequence[Block]) -> None:
        self._of = {branch.total: branch.through for one in gone for branch in one.branches}
        self._wanted = set(self._of.values())
        self._values: dict[fx.Node, Any] = {}

    def seen(self, node: fx.Node, value: Any) -> Any:
        """Called with every node and its value."""
        if node in self._of:
            value = self._values[self._of[node]]
        if node in self._wanted:
            self._values[node] = value
        return value
