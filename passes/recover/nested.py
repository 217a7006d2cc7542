"""Sub-models of the first blocks, trained together with the whole.

Sorted fine-tuning (SoFT, Valipour et al., 2023, arXiv 2309.08968): the loss is summed over models
that end after some of the blocks and share all that follows them, such as the last norm and the
head. So one set of weights serves several depths: `prune-blocks{importance=last}` cuts to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
        self._ends = [_Through.of(self._module, blocks[depth:]) for depth in depths]

    def outputs(self, inputs: tuple[Tensor, ...], known: Values) -> list[list[Tensor]]:
        """Outputs of every sub-model.

        Args:
            inputs: In the order of the signature.
            known: Trained values.
        """
        return [_Shortened(self._module, known, end).outputs(inputs) for end in self._ends]


@dataclass(frozen=True)
class _Through:
    """What blocks read goes on in the place of what they compute.

    Attributes:
        reads: By the sums of their branches.
        unread: What then nothing reads.
    """

    reads: dict[fx.Node, fx.Node]
    unread: tuple[fx.Node, ...]

    @classmethod
    def of(cls, module: fx.GraphModule, gone: Sequence[Block]) -> "_Through":
        """Without some blocks."""
        reads = {branch.total: branch.through for one in gone for branch in one.branches}
        read: set[fx.Node] = set()
        for node in reversed(module.graph.nodes):
            if node.op in ("placeholder", "output") or node in read:
                read |= {reads[node]} if node in reads else set(node.all_input_nodes)
                read.add(node)
        return cls(reads, tuple(node for node in module.graph.nodes if node not in read))


class _Shortened(Straight):
    """Runs a graph without some blocks."""

    def __init__(self, module: fx.GraphModule, known: Values, through: _Through) -> None:
        super().__init__(module, {**known, **dict.fromkeys(through.unread)})
        self._reads = through.reads

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; a sum that goes is what it would add to."""
        before = self._reads.get(n)
        return super().run_node(n) if before is None else self.env[before]
