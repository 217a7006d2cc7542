"""Row kernels: reductions along the last dimension with whatever surrounds them.

Norms, softmax and run-time quantization are all of this kind. A row is read in as many passes as
reductions depend on each other; values that a later pass needs again wait in a row buffer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from effc.codegen.access import Access, joined
from effc.codegen.dtypes import held, stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel
from effc.codegen.operands import NeedsScalarError
from effc.codegen.reduce_lanes import REDUCTIONS, Totals, as_value, total_type
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Expr, cast, index, load, mask
from effc.codegen.vectors import Run, Vectors
from effc.ir.errors import BuildError
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.symbols import Size, ceil_div, product, simplify

WAYS = (1, 2, 4, 8)
FLOAT_NBYTES = 4


@dataclass(frozen=True)
class RowSchedule(Schedule):
    """How rows are reduced.

    Attributes:
        ways: Vectors of independent totals.
    """

    ways: int = 4


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of a row kernel, the default first."""
    return ordered(map(RowSchedule, WAYS), RowSchedule())


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: RowSchedule | None = None,
) -> Kernel:
    """Make the kernel of a region with reductions along its last dimension."""
    ways = (schedule or RowSchedule()).ways
    for lanes, masked in ((isa.lanes, isa.has_masks), (isa.lanes, False), (1, False)):
        try:
            return _RowBuilder(region, name, symbols, Vectors(lanes, masked), ways).kernel()
        except NeedsScalarError:
            continue
    raise BuildError(f"{name}: no form of the kernel can be built")


@dataclass(frozen=True)
class Levels:
    """In which pass over the row each node is known.

    Attributes:
        of: The pass that can compute a node.
        vectors: Nodes with a value per element of the row; the others have one per row.
        waiting: Vector nodes a later pass needs again; what is only picked is picked again instead.
    """

    of: dict[fx.Node, int]
    vectors: set[fx.Node]
    waiting: list[fx.Node]


def levels_of(region: Region, length: Size) -> Levels:
    """Sort the nodes of a region into passes."""
    of: dict[fx.Node, int] = {}
    vectors: set[fx.Node] = set()
    for node in [*region.placeholders, *region.calls]:
        operands = [arg for arg in node.all_input_nodes if arg in of]
        of[node] = max((of[a] + (op_name(a) in REDUCTIONS) for a in operands), default=0)
        if op_name(node) not in REDUCTIONS and region.shape(node)[-1:] == (length,):
            vectors.add(node)
    waiting = [
        node
        for node in region.calls
        if node in vectors
        and kind_of(node) != Kind.GATHER
        and node.meta["val"].dtype.itemsize == FLOAT_NBYTES
        and node.meta["val"].dtype.is_floating_point
        and any(of.get(user, 0) > of[node] for user in node.users)
    ]
    return Levels(of, vectors, waiting)


class _RowBuilder:
    def __init__(
        self, region: Region, name: str, symbols: tuple[str, ...], vectors: Vectors, ways: int
    ) -> None:
        self.region, self.vectors, self.ways = region, vectors, ways
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        reductions = [node for node in region.calls if op_name(node) in REDUCTIONS]
        self.domain = region.shape(reductions[0].args[0])
        self.length = self.domain[-1]
        self.levels = levels_of(region, self.length)
        self.inputs = [
            self.function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)
        ]
        self.outputs = [
            self.function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        self.row_buffer = self.function.param("scratch", 0, "float32")
        self.is_pointwise = all(
            kind_of(node) == Kind.ELEMENTWISE or node in reductions for node in region.calls
        )
        accesses = self._accesses()
        self.shape = accesses[0].shape if self.is_pointwise else self.domain
        count = len(region.inputs)
        self.output_accesses = accesses[count:]
        self.evaluator = Evaluator(region, self.b, self.inputs, accesses[:count], self.is_pointwise)

    def _accesses(self) -> list[Access]:
        outputs = [access.aligned_to(self.domain) for access in self.region.outputs]
        if not self.is_pointwise:
            return [*self.region.inputs, *outputs]
        inputs = [access.aligned_to(self.domain) for access in self.region.inputs]
        return joined([*inputs, *outputs], keep_last=1)

    def kernel(self) -> Kernel:
        """Emit the passes over each row."""
        outer = list(self.shape[:-1])
        begin, end = self.function.task_range
        with self.b.loop(begin, end, "row") as task:
            self.row = tuple(unravel(self.b, task, outer))
            known: dict[fx.Node, Expr] = {}
            for level in range(max(map(self._level_known, self.levels.of)) + 1):
                self._pass(level, known)
        tasks = product(outer)
        scratch = simplify(self._stride() * FLOAT_NBYTES * len(self.levels.waiting))
        stage = self.function.close(tasks)
        return Kernel("rows", (stage,), scratch=scratch)

    def _pass(self, level: int, known: dict[fx.Node, Expr]) -> None:
        """One pass over the row: reductions, values that wait, and outputs of this level."""
        of, calls = self.levels.of, self.region.calls
        reductions = [n for n in calls if of[n] == level and op_name(n) in REDUCTIONS]
        keep = [node for node in self.levels.waiting if of[node] == level]
        ready = [
            (node, position)
            for position, node in enumerate(self.region.results)
            if node in self.levels.vectors and of[node] == level
        ]
        self._numbers(level, known)
        if not (reductions or keep or ready):
            return
        totals = {node: self._totals(node) for node in reductions}

        def at(position: Expr, lanes: int, count: Expr | None, way: int = 0) -> None:
            point = Point((*self.row, position), len(self.row) if lanes > 1 else None, lanes, count)
            scope = self.evaluator.fresh({**known, **self._waiting_at(level, position, lanes)})
            for node in keep:
                self.b.store(self.row_buffer, scope.value(node, point), self._at(node, position))
            for node, place in ready:
                access = self.output_accesses[place]
                scope.store(self.outputs[place], access, scope.value(node, point), point)
            valid = None if count is None else mask(count, lanes)
            for node in reductions:
                value = scope.value(node.args[0], point)
                totals[node].add(totals[node].kind.term(value, node.meta["val"].dtype), way, valid)

        self._cover(at, self.ways if reductions else 1)
        for node in reductions:
            known[node] = self._finished(node, totals[node].result())

    def _cover(self, at: Callable[..., None], ways: int) -> None:
        """Cover the row: `ways` vectors a turn, then single vectors, then the tail."""
        b, lanes, length = self.b, self.vectors.lanes, self.length
        step = lanes * ways
        if ways == 1 or lanes == 1 or not isinstance(length, int) or length < step:
            run = Run(index(0), b.size(length), length)
            self.vectors.cover(b, run, at)
            return
        turns = length // step
        with b.loop(0, turns, "turn") as turn:
            for way in range(ways):
                at(b.let(turn * index(step) + index(way * lanes)), lanes, None, way)
        if length % step:
            run = Run(index(turns * step), index(length), length - turns * step)
            self.vectors.cover(b, run, at)

    def _numbers(self, level: int, known: dict[fx.Node, Expr]) -> None:
        """Compute the values per row that this level can, and store those that are outputs."""
        point = Point((*self.row, index(0)))
        for node in self.region.calls:
            if node in self.levels.vectors or op_name(node) in REDUCTIONS:
                continue
            if self.levels.of[node] == level:
                known[node] = self.evaluator.fresh(known).value(node, point)
        for position, node in enumerate(self.region.results):
            is_new = node not in self.levels.vectors and self._level_known(node) == level
            if is_new:
                value = self.evaluator.fresh(known).value(node, point)
                self.evaluator.store(
                    self.outputs[position], self.output_accesses[position], value, point
                )

    def _level_known(self, node: fx.Node) -> int:
        return self.levels.of[node] + (op_name(node) in REDUCTIONS)

    def _totals(self, node: fx.Node) -> Totals:
        dtype = total_type(node.meta["val"].dtype)
        return Totals(self.b, REDUCTIONS[op_name(node)], dtype, self.vectors.lanes, self.ways)

    def _finished(self, node: fx.Node, total: Expr) -> Expr:
        if op_name(node) != "aten.mean.dim":
            return as_value(total, node.meta["val"].dtype)
        return self.b.let(total / cast(self.b.size(self.length), held(node.meta["val"].dtype)))

    def _at(self, node: fx.Node, position: Expr) -> Expr:
        number = self.levels.waiting.index(node)
        return position + index(number) * self.b.size(self._stride())

    def _stride(self) -> Size:
        """Elements between the rows of two waiting values."""
        return simplify(ceil_div(self.length, 64) * 64 + 64)

    def _waiting_at(self, level: int, position: Expr, lanes: int) -> dict[fx.Node, Expr]:
        """Values of earlier passes, loaded from the row buffer."""
        return {
            node: load(self.row_buffer, self._at(node, position), lanes)
            for node in self.levels.waiting
            if self.levels.of[node] < level
        }
