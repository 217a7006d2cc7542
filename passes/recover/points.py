"""Places in the student where it is compared with its teacher, or goes on from its value.

The places are ends of blocks: sums of two values that both depend on the input, which have the same
source and shape in both programs. `Guide` runs the student; where a place is forced, what follows
reads the teacher's value, so that every block learns from clean inputs: with all places forced that
is reconstruction block by block (BRECQ, Y. Li et al., 2021, arXiv 2102.05426), with fewer and fewer
it is Teacher Intervention (M. Kim et al., 2023, arXiv 2302.11812).
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir.opspec import op_name
from effc.ir.program import Program, value_of
from effc.ir.provenance import label
from effc.passes.bits.metrics.running import Values
from effc.passes.recover.losses import relative_error
from effc.passes.recover.straight import Straight

SUMS = ("aten.add.Tensor",)
PRODUCTS = ("aten.linear.default", "aten.conv2d.default")
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Point:
    """The same place in both programs."""

    teacher: fx.Node
    student: fx.Node


def points_of(teacher: Program, student: Program) -> list[Point]:
    """The places at which both programs can be compared, in the order of the student's graph."""
    for kinds in (SUMS, PRODUCTS):
        theirs = _keyed(teacher, kinds)
        pairs = [
            Point(theirs[key], node)
            for key, node in _keyed(student, kinds).items()
            if key in theirs
        ]
        same = [
            pair for pair in pairs if _shape(teacher, pair.teacher) == _shape(student, pair.student)
        ]
        if same:
            return same
    return []


def values_at(
    module: fx.GraphModule, nodes: set[fx.Node], inputs: tuple[Tensor, ...]
) -> tuple[list[Tensor], Values]:
    """Outputs of a module, and what some of its nodes compute."""
    found: Values = {}

    def keep(node: fx.Node, value: Any) -> Any:
        if node in nodes:
            found[node] = value
        return value

    with torch.no_grad():
        return Straight(module, seen=keep).outputs(inputs), found


class Guide:
    """Runs a student beside what its teacher computed.

    Args:
        module: The student's graph.
        points: Where both are compared.
    """

    def __init__(self, module: fx.GraphModule, points: list[Point]) -> None:
        self._module = module
        self._places = {
            point.student: (number, point.teacher) for number, point in enumerate(points)
        }

    def run(
        self, inputs: tuple[Tensor, ...], known: Values, taught: Values, forced: int
    ) -> tuple[list[Tensor], Tensor]:
        """Outputs, and the mean relative error at the places.

        Args:
            inputs: In the order of the signature.
            known: The student's trained values.
            taught: The teacher's values at the places.
            forced: After how many places, from the last, the teacher's value goes on.
        """
        errors: list[Tensor] = []
        first = len(self._places) - forced

        def compare(node: fx.Node, value: Any) -> Any:
            if node not in self._places:
                return value
            number, other = self._places[node]
            errors.append(relative_error(taught[other], value))
            return taught[other] if number >= first else value

        outputs = Straight(self._module, known, compare).outputs(inputs)
        return outputs, torch.stack(errors).mean() if errors else torch.zeros(())


def _keyed(program: Program, kinds: tuple[str, ...]) -> dict[Key, fx.Node]:
    found: dict[Key, fx.Node] = {}
    count: dict[tuple[str, str], int] = defaultdict(int)
    for node in program.forward.graph.nodes:
        is_sum = op_name(node) in SUMS and len(_computed(node)) == 2
        if op_name(node) not in kinds or not (is_sum or kinds == PRODUCTS):
            continue
        name = label(node), op_name(node)
        found[*name, count[name]] = node
        count[name] += 1
    return found


def _computed(node: fx.Node) -> list[fx.Node]:
    return [one for one in node.all_input_nodes if one.op != "get_attr"]


def _shape(program: Program, node: fx.Node) -> Any:
    return program.shape(node), value_of(node).dtype
