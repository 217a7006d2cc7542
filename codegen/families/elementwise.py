"""Everything that computes each output element by itself: arithmetic, copies, gathers.

Dimensions that act as one in all tensors are merged, the innermost runs in vectors. What follows a
concatenation is computed part by part, so that every part is such a case.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from effc.codegen.access import Access, joined
from effc.codegen.dtypes import stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.concatenation import parts_of
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, Stage
from effc.codegen.operands import NeedsScalarError
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Builder, Expr, index
from effc.codegen.vectors import Run, Vectors
from effc.ir.errors import BuildError
from effc.ir.symbols import Size, ceil_div, evaluate, product, simplify

CHUNK = 4096
CHUNKS = (1024, 4096, 16384)
TYPICAL = 64
SHORT = 8


@dataclass(frozen=True)
class ChunkSchedule(Schedule):
    """How one long run of elements is split.

    Attributes:
        chunk: Elements of a task.
    """

    chunk: int = CHUNK


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of an elementwise kernel, the default first; only one long run has several."""
    is_run = len(domain_of(region).order) <= 1
    return ordered(map(ChunkSchedule, CHUNKS if is_run else ()), ChunkSchedule())


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: ChunkSchedule | None = None,
) -> Kernel:
    """Make a kernel that computes every output element of a region by itself."""
    parts, chunk = parts_of(region), (schedule or ChunkSchedule()).chunk
    for lanes, masked in ((isa.lanes, isa.has_masks), (isa.lanes, False), (1, False)):
        try:
            stage = _stage(parts, name, symbols, Vectors(lanes, masked), chunk)
        except NeedsScalarError:
            continue
        return Kernel("elementwise", (stage,))
    raise BuildError(f"{name}: no form of the kernel can be built")


@dataclass(frozen=True)
class Domain:
    """The loop nest: accesses of inputs and outputs over the same dimensions, slowest first.

    Attributes:
        inputs: Accesses of the placeholders (in their own shapes if not pointwise).
        outputs: Accesses of the outputs.
        order: The dimensions in the order of the loops; the last one is vectorised.
    """

    inputs: list[Access]
    outputs: list[Access]
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[Size, ...]:
        """Size per dimension."""
        return self.outputs[0].shape


def typical(size: Size) -> int:
    """A number to compare symbolic sizes by."""
    if isinstance(size, int):
        return size
    return evaluate(size, {symbol.name: TYPICAL for symbol in size.free_symbols})


def loop_order(access: Access) -> tuple[int, ...]:
    """Dimensions from the largest stride to the smallest."""
    keys = [(-typical(stride), dim) for dim, stride in enumerate(access.strides)]
    return tuple(dim for _, dim in sorted(keys))


def domain_of(region: Region) -> Domain:
    """Choose the loop nest of a region."""
    outputs = list(region.outputs)
    shape = outputs[0].shape
    if not region.is_pointwise:
        return Domain(list(region.inputs), outputs, loop_order(outputs[0]))
    aligned = [access.aligned_to(shape or (1,)) for access in (*region.inputs, *outputs)]
    order = loop_order(aligned[-1])
    sorted_accesses = [a.permuted(order) for a in aligned]
    merged = joined(sorted_accesses, keep_last=0)
    count = len(region.inputs)
    return Domain(merged[:count], merged[count:], _vector_last(merged, count))


def _vector_last(accesses: list[Access], inputs: int) -> tuple[int, ...]:
    """The order of the loops: as results lie in memory, but vectors run along a long dimension.

    Where the innermost is too short for them (the channels of an image), it is one in which every
    input is contiguous or constant, and results are stored element by element.
    """
    shape = accesses[-1].shape
    order = list(range(len(shape)))
    if not shape or typical(shape[-1]) >= SHORT:
        return tuple(order)
    for dim in reversed(order[:-1]):
        strides = {access.strides[dim] for access in accesses[:inputs]}
        if strides <= {0, 1} and 1 in strides and typical(shape[dim]) >= TYPICAL // 2:
            return (*(other for other in order if other != dim), dim)
    return tuple(order)


def _stage(
    parts: list[Region], name: str, symbols: tuple[str, ...], vectors: Vectors, chunk: int
) -> Stage:
    """A function that computes regions of the same inputs and outputs one after the other."""
    function, region = FunctionBuilder(name, symbols), parts[0]
    inputs = [function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)]
    outputs = [function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)]
    b, done = function.builder, 0
    begin, end = function.task_range
    for part in parts:
        count, run_task = _tasks(part, b, (inputs, outputs), vectors, chunk)
        first, last = begin, end
        if len(parts) > 1:
            first = b.let(tirx.Max(begin - b.size(done), index(0)))
            last = b.let(tirx.Min(end - b.size(done), b.size(count)))
        with b.loop(first, last, "task") as task:
            run_task(task)
        done = simplify(done + count)
    return function.close(done)


def _tasks(
    region: Region,
    b: Builder,
    buffers: tuple[list[tirx.Buffer], list[tirx.Buffer]],
    vectors: Vectors,
    chunk: int,
) -> tuple[Size, Callable[[Expr], None]]:
    """How many tasks a region has, and what emits one."""
    domain, (inputs, outputs) = domain_of(region), buffers
    evaluator = Evaluator(region, b, inputs, domain.inputs, region.is_pointwise)
    *outer, inner = domain.order or (0,)
    size = domain.shape[inner] if domain.shape else 1

    def compute(place: dict[int, Expr], lanes: int, count: Expr | None) -> None:
        scope = evaluator.fresh({})
        coordinates = tuple(place[dim] for dim in range(len(domain.order)))
        point = Point(coordinates, inner if lanes > 1 else None, lanes, count)
        for node, buffer, access in zip(region.results, outputs, domain.outputs, strict=True):
            scope.store(buffer, access, scope.value(node, point), point)

    def run_task(task: Expr) -> None:
        if outer:
            first, last = index(0), b.size(size)
            coordinates = unravel(b, task, [domain.shape[dim] for dim in outer])
        else:
            first = b.let(task * index(chunk))
            last = b.let(tirx.Min(first + index(chunk), b.size(size)))
            coordinates = []
        place = dict(zip(outer, coordinates, strict=True))
        run = Run(first, last, size if outer else _last_chunk(size, chunk))
        vectors.cover(b, run, lambda at, lanes, n: compute({**place, inner: at}, lanes, n))

    outer_tasks = product([domain.shape[dim] for dim in outer])
    return outer_tasks if outer else ceil_div(size, chunk), run_task


def _last_chunk(size: Size, chunk: int) -> Size:
    """A number that leaves the same tail as the last chunk and is long if any chunk is."""
    return size if not isinstance(size, int) or size <= chunk else size % chunk + chunk


def unravel(b: Builder, task: Expr, shape: list[Size]) -> list[Expr]:
    """Coordinates of a flat task number, last dimension fastest."""
    coordinates: list[Expr] = []
    remaining = sum(size != 1 for size in shape)
    for size in reversed(shape):
        if size == 1:
            coordinates.append(index(0))
            continue
        remaining -= 1
        extent = b.size(size)
        coordinates.append(b.let(tirx.Mod(task, extent)) if remaining else task)
        task = b.let(tirx.Div(task, extent)) if remaining else task
    return coordinates[::-1]
