"""The first stage of attention: keys and values in the order the second stage reads them.

Keys `[..., S, E]` become panels `[..., S / width][E / depth][width]` of words, zero past the last
key: a vector holds neighbouring keys, a word `depth` neighbouring features. Except for floats, the
values `[..., S, V]` become words `[..., S / depth][V]` of neighbouring keys, V rounded up to whole
vectors. Codes become signed on the way, and every key gets the term that takes off the zero point
of the queries.
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

SUM_NBYTES = 4
SIGN = 0x80


@dataclass(frozen=True)
class Packed:
    """Sizes of the packed operands.

    Attributes:
        width: Keys of a panel.
        panels: Panels of one head.
        depth: Elements of a word.
        bits: Bits of an element.
        features: Words per key.
        columns: Words per row of values.
        is_code: Whether elements are codes, which become signed.
    """

    width: int
    panels: Size
    depth: int
    bits: int
    features: int
    columns: int
    is_code: bool

    @classmethod
    def of(cls, region: Region, problem: Problem, isa: Isa) -> "Packed":
        """Read the sizes off a region."""
        key, value = region.inputs[problem.key], region.inputs[problem.value]
        width, depth = key_vectors(isa) * isa.lanes, problem.depth(isa)
        return cls(
            width,
            ceil_div(key.shape[-2], width),
            depth,
            {"floats": 32, "pairs": 16, "codes": 8}[problem.arithmetic],
            -(-key.shape[-1] // depth),
            -(-value.shape[-1] // isa.lanes) * isa.lanes,
            problem.arithmetic == "codes",
        )

    @property
    def is_float(self) -> bool:
        """Whether words are single floats, and the values stay where they are."""
        return self.depth == 1

    @property
    def word(self) -> str:
        """TIR's name of a word."""
        return "float32" if self.is_float else f"uint{self.bits * self.depth}"

    @property
    def key_words(self) -> Size:
        """Words of the keys of one head."""
        return simplify(self.panels * self.features * self.width)

    @property
    def value_words(self) -> Size:
        """Words of the values of one head."""
        return simplify(self.panels * (self.width // self.depth) * self.columns)

    def temporaries(self, outer: tuple[Size, ...]) -> dict[str, Size]:
        """Bytes of everything that is packed for keys with these outer dimensions."""
        nbytes = self.bits * self.depth // 8
        found = {"keys": product([*outer, self.key_words, nbytes])}
        if not self.is_float:
            found["values"] = product([*outer, self.value_words, nbytes])
        if self.is_code:
            found["sums"] = product([*outer, self.panels, self.width, SUM_NBYTES])
        return found


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
            keys = self._keys(task, start, valid)
            if not self.sizes.is_float:
                self._values(task, start, valid)
            if self.sizes.is_code:
                self._sums(task, keys)
        return self.function.close(product(outer))

    def _keys(self, task: Expr, start: Point, valid: Expr) -> tirx.Buffer:
        b, sizes = self.b, self.sizes
        key = self.region.inputs[self.problem.key]
        source = self.function.param("input", self.problem.key, stored(key.dtype))
        target = self.function.param("temporary", "keys", sizes.word)
        base = b.let(task * index(sizes.features * sizes.width))
        origin, stride = b.let(flat_index(b, key, start)), b.size(key.strides[-2])
        whole, rest = divmod(key.shape[-1], sizes.depth)
        with b.loop(index(0), valid, "key") as j:
            line, there = b.let(origin + j * stride), b.let(base + j)
            with b.loop(0, whole, "feature") as e:
                found = self._word(source, key, line + e * index(sizes.depth))
                b.store(target, found, there + e * index(sizes.width))
            if rest:
                at = line + index(sizes.depth * whole)
                last = [load(source, at + index(i)) for i in range(rest)]
                b.store(target, self._joined(last), there + index(whole * sizes.width))
        zero = const(0, sizes.word)
        with b.loop(valid, index(sizes.width), "key") as j, b.loop(0, sizes.features, "f") as e:
            b.store(target, zero, base + e * index(sizes.width) + j)
        return target

    def _word(self, source: tirx.Buffer, key: Access, at: Expr) -> Expr:
        """`depth` neighbouring features."""
        sizes = self.sizes
        if sizes.is_float:
            return from_memory(load(source, at), key.dtype)
        word = tirx.reinterpret(sizes.word, load(source, at, sizes.depth))
        return word ^ self._signs(sizes.depth, sizes.word) if sizes.is_code else word

    def _signs(self, count: int, dtype: str) -> Expr:
        """What makes the first `count` codes of a word signed: their highest bits."""
        return const(sum(SIGN << (self.sizes.bits * i) for i in range(count)), dtype)

    def _joined(self, elements: list[Expr]) -> Expr:
        """A word (or a vector of them) of up to `depth` elements, zero above them."""
        sizes = self.sizes
        words = [cast(element, sizes.word) for element in elements]
        dtype = str(words[0].ty.dtype)
        joined = words[0]
        for number, word in enumerate(words[1:], start=1):
            joined = joined | (word << const(sizes.bits * number, dtype))
        return joined ^ self._signs(len(words), dtype) if sizes.is_code else joined

    def _values(self, task: Expr, start: Point, valid: Expr) -> None:
        b, sizes = self.b, self.sizes
        value = self.region.inputs[self.problem.value]
        source = self.function.param("input", self.problem.value, stored(value.dtype))
        target = self.function.param("temporary", "values", sizes.word)
        base = b.let(task * index(sizes.width // sizes.depth * sizes.columns))
        origin, stride = b.let(flat_index(b, value, start)), b.size(value.strides[-2])
        vectors = Vectors(self.isa.lanes, self.isa.has_masks)
        run = Run(index(0), b.size(value.shape[-1]), value.shape[-1])

        def group(number: Expr, count: int) -> None:
            """Join `count` neighbouring keys; a last group is filled up with zeros."""
            line = b.let(origin + number * stride * index(sizes.depth))
            there = b.let(base + number * index(sizes.columns))

            def interleave(at: Expr, lanes: int, valid: Expr | None) -> None:
                rows = [b.let(line + stride * index(i) + at) for i in range(count)]
                if valid is None:
                    elements = [load(source, row, lanes) for row in rows]
                else:
                    elements = [load_masked(source, row, lanes, valid) for row in rows]
                b.store(target, b.let(self._joined(elements)), there + at)

            vectors.cover(b, run, interleave)

        whole = b.let(tirx.Div(valid, index(sizes.depth)))
        with b.loop(index(0), whole, "group") as number:
            group(number, sizes.depth)
        for rest in range(1, sizes.depth):
            with b.when(tirx.EQ(valid - whole * index(sizes.depth), index(rest))):
                group(whole, rest)
        used = tirx.Div(valid + index(sizes.depth - 1), index(sizes.depth))
        zero = const(0, with_lanes(sizes.word, self.isa.lanes))
        with b.loop(used, index(sizes.width // sizes.depth), "group") as number:
            there = b.let(base + number * index(sizes.columns))
            for at in range(0, sizes.columns, self.isa.lanes):
                b.store(target, zero, there + index(at))

    def _sums(self, task: Expr, keys: tirx.Buffer) -> None:
        """Minus the query's zero point times the sum of every key's codes."""
        b, sizes, isa, encoding = self.b, self.sizes, self.isa, self.problem.encoding
        if encoding is None:
            return
        zero_point = self.function.param("input", encoding.query_zero_point, "int32")
        target = self.function.param("temporary", "sums", "int32")
        base = b.let(task * index(sizes.features * sizes.width))
        factor = b.let(const(0, "int32") - load(zero_point, 0))
        for at in range(0, sizes.width, isa.lanes):
            total = b.local("int32", isa.lanes, "sum")
            b.store(total, const(0, with_lanes("int32", isa.lanes)), 0)
            with b.loop(0, sizes.features, "feature") as e:
                words = base + e * index(sizes.width) + index(at)
                codes = tirx.reinterpret(
                    with_lanes("int8", isa.lanes * sizes.depth), load(keys, words, isa.lanes)
                )
                before = load(total, 0, isa.lanes)
                b.store(total, isa.dot(before, isa.dot_ones(), isa.dot_weights(codes)), 0)
            scaled = load(total, 0, isa.lanes) * tirx.Broadcast(factor, isa.lanes)
            b.store(target, scaled, task * index(sizes.width) + index(at))
