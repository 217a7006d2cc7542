"""The first stage of attention: keys (and values of bfloat16) in the order the second reads them.

Keys `[..., S, E]` become panels `[..., S / width][E / depth][width]`, zero past the last key: a
vector holds neighbouring keys. Of bfloat16, an element is a pair of features, and the values
`[..., S, V]` become `[..., S / 2][V]` pairs of neighbouring keys, V rounded up to whole vectors.
"""

from dataclasses import dataclass

from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.dtypes import from_memory, stored
from effc.codegen.evaluate import Point, flat_index
from effc.codegen.families.attention_problem import Problem, key_vectors
from effc.codegen.families.elementwise import unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Stage
from effc.codegen.region import Region
from effc.codegen.tir import Expr, cast, const, index, load, load_masked, with_lanes
from effc.codegen.vectors import Run, Vectors
from effc.ir.symbols import Size, ceil_div, product, simplify

ELEMENT_NBYTES = 4
PAIR = 2


@dataclass(frozen=True)
class Packed:
    """Sizes of the packed operands.

    Attributes:
        width: Keys of a panel.
        panels: Panels of one head.
        features: Elements per key.
        columns: Elements per pair of values.
        dtype: TIR's name of an element.
    """

    width: int
    panels: Size
    features: int
    columns: int
    dtype: str

    @classmethod
    def of(cls, region: Region, problem: Problem, isa: Isa) -> "Packed":
        """Read the sizes off a region."""
        key, value = region.inputs[problem.key], region.inputs[problem.value]
        width, depth = key_vectors(isa) * isa.lanes, PAIR if problem.pairs else 1
        return cls(
            width,
            ceil_div(key.shape[-2], width),
            -(-key.shape[-1] // depth),
            -(-value.shape[-1] // isa.lanes) * isa.lanes,
            "uint32" if problem.pairs else "float32",
        )

    @property
    def head_pairs(self) -> Size:
        """Pairs of values of one head."""
        return simplify(self.panels * (self.width // PAIR))

    def nbytes(self, outer: tuple[Size, ...]) -> tuple[Size, Size]:
        """Bytes of all packed keys, and of all packed values."""
        keys = product([*outer, self.panels, self.features, self.width, ELEMENT_NBYTES])
        return keys, product([*outer, self.head_pairs, self.columns, ELEMENT_NBYTES])


def pack_stage(
    region: Region, problem: Problem, isa: Isa, name: str, symbols: tuple[str, ...]
) -> Stage:
    """Pack one panel of keys (and the values of the same keys) per task."""
    return _PackStage(region, problem, isa, name, symbols).stage()


class _PackStage:
    def __init__(
        self, region: Region, problem: Problem, isa: Isa, name: str, symbols: tuple[str, ...]
    ) -> None:
        self.region, self.problem, self.isa = region, problem, isa
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.sizes = Packed.of(region, problem, isa)

    def stage(self) -> Stage:
        """Emit the loop over panels."""
        key, b, width = self.region.inputs[self.problem.key], self.b, self.sizes.width
        outer: list[Size] = [*key.shape[:-2], self.sizes.panels]
        begin, end = self.function.task_range
        with b.loop(begin, end, "task") as task:
            *place, panel = unravel(b, task, outer)
            first = b.let(panel * index(width))
            valid = b.let(tirx.Min(b.size(key.shape[-2]) - first, index(width)))
            start = Point((*place, first, index(0)))
            self._keys(task, start, valid)
            if self.problem.pairs:
                self._values(task, start, valid)
        return self.function.close(product(outer))

    def _keys(self, task: Expr, start: Point, valid: Expr) -> None:
        b, sizes = self.b, self.sizes
        key = self.region.inputs[self.problem.key]
        source = self.function.param("input", self.problem.key, stored(key.dtype))
        target = self.function.param("temporary", "keys", sizes.dtype)
        base = b.let(task * index(sizes.features * sizes.width))
        origin, stride = b.let(flat_index(b, key, start)), b.size(key.strides[-2])
        pairs = key.shape[-1] // PAIR if self.problem.pairs else sizes.features
        with b.loop(index(0), valid, "key") as j:
            line, there = b.let(origin + j * stride), b.let(base + j)
            with b.loop(0, pairs, "feature") as e:
                found = self._element(source, key, line, e)
                b.store(target, found, there + e * index(sizes.width))
            if pairs < sizes.features:
                last = cast(load(source, line + index(PAIR * pairs)), "uint32")
                b.store(target, last, there + index(pairs * sizes.width))
        zero = const(0, sizes.dtype)
        with b.loop(valid, index(sizes.width), "key") as j, b.loop(0, sizes.features, "f") as e:
            b.store(target, zero, base + e * index(sizes.width) + j)

    def _element(self, source: tirx.Buffer, key: Access, line: Expr, e: Expr) -> Expr:
        if not self.problem.pairs:
            return from_memory(load(source, line + e), key.dtype)
        return tirx.reinterpret("uint32", load(source, line + e * index(PAIR), PAIR))

    def _values(self, task: Expr, start: Point, valid: Expr) -> None:
        b, sizes = self.b, self.sizes
        value = self.region.inputs[self.problem.value]
        source = self.function.param("input", self.problem.value, stored(value.dtype))
        target = self.function.param("temporary", "values", sizes.dtype)
        base = b.let(task * index(sizes.width // PAIR * sizes.columns))
        origin, stride = b.let(flat_index(b, value, start)), b.size(value.strides[-2])
        vectors = Vectors(self.isa.lanes, self.isa.has_masks)
        run = Run(index(0), b.size(value.shape[-1]), value.shape[-1])

        def pair(number: Expr, is_whole: bool) -> None:
            line, there = b.let(origin + number * stride * index(PAIR)), base

            def interleave(at: Expr, lanes: int, count: Expr | None) -> None:
                def row(offset: Expr) -> Expr:
                    if count is None:
                        return cast(load(source, offset, lanes), "uint32")
                    return cast(load_masked(source, offset, lanes, count), "uint32")

                word = row(line + at)
                if is_whole:
                    sixteen = const(16, with_lanes("uint32", lanes))
                    word = word | (row(line + stride + at) << sixteen)
                b.store(target, word, there + number * index(sizes.columns) + at)

            vectors.cover(b, run, interleave)

        whole = b.let(tirx.Div(valid, index(PAIR)))
        with b.loop(index(0), whole, "pair") as number:
            pair(number, is_whole=True)
        with b.when(tirx.NE(whole * index(PAIR), valid)):
            pair(whole, is_whole=False)
