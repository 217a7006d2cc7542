"""How attention multiplies: floats, pairs of bfloat16, or codes."""

from tvm import tirx

from effc.codegen import coarse_math
from effc.codegen.dtypes import from_memory
from effc.codegen.families.attention_frame import Frame
from effc.codegen.tir import (
    Expr,
    cast,
    const,
    index,
    lanes_of,
    llvm,
    load,
    load_masked,
    splat,
    with_lanes,
)
from effc.codegen.vector_math import exp2

LARGEST = 255


class Floats:
    """Products of float32 numbers; values are read where they are.

    Attributes:
        total: Element type of sums of products.
        weight: Element type of the exponentials the second product reads.
        count: Element type of sums of exponentials.
    """

    total, weight, count = "float32", "float32", "float32"

    def __init__(self, frame: Frame) -> None:
        self.frame, self.b, self.isa = frame, frame.b, frame.isa
        self.query = frame.inputs[frame.problem.query]
        self.keys = frame.function.param("temporary", "keys", self.key_dtype())
        self.values = self._values()

    def key_dtype(self) -> str:
        """Element type the packed keys are read as."""
        return self.frame.sizes.word

    def _values(self) -> tirx.Buffer:
        return self.frame.inputs[self.frame.problem.value]

    def start(self, panel: Expr, vector: int) -> Expr:
        """What the scores of a vector of keys start at; `panel` counts over all heads."""
        return const(0, with_lanes(self.total, self.isa.lanes))

    def factor(self) -> Expr:
        """What a sum of products is multiplied with to give a score."""
        return const(self.frame.problem.scale, "float32")

    def feature(self, line: Expr, step: Expr, count: int) -> Expr:
        """A word of a query of which `count` elements exist, in all lanes."""
        value = from_memory(load(self.query, line + step), self.frame.query.dtype)
        return splat(value, self.isa.lanes)

    def key(self, word: Expr) -> Expr:
        """A vector of key words."""
        return load(self.keys, word, self.isa.lanes)

    def multiplied(self, factor: Expr, vector: Expr, total: Expr) -> Expr:
        """`total` plus the products of two words, per lane."""
        return self.isa.multiply_add(factor, vector, total)

    def exponential(self, x: Expr) -> Expr:
        """2^x as it is stored and summed up."""
        return exp2(self.b, x)

    def keep(self, buffer: tirx.Buffer, value: Expr, at: Expr) -> None:
        """Store a vector of exponentials."""
        self.b.store(buffer, value, at)

    def weights(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        """A word of exponentials in all lanes."""
        return splat(load(buffer, at), self.isa.lanes)

    def value_base(self, first: Expr) -> Expr:
        """Where the values of a first key begin."""
        return self.frame.value_offset(first)

    def value_stride(self) -> Expr:
        """How far apart the values of two words are."""
        return self.b.size(self.frame.value.strides[-2])

    def value(self, line: Expr, at: int, valid: int) -> Expr:
        """A vector of value words; lanes past the last column hold anything."""
        lanes, frame = self.isa.lanes, self.frame
        if valid == lanes:
            return from_memory(load(self.values, line + index(at), lanes), frame.value.dtype)
        found = load_masked(self.values, line + index(at), lanes, index(valid))
        return from_memory(found, frame.value.dtype)

    def finished(self, total: Expr, inverse: Expr) -> Expr:
        """A result from the weighted sum and one over the sum of weights (0 for no keys)."""
        return total * splat(inverse, lanes_of(total))


class Pairs(Floats):
    """Products of bfloat16 pairs, of neighbouring features and then of neighbouring keys."""

    weight = "uint16"

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        frame.function.import_llvm(self.isa.pair_code)

    def _values(self) -> tirx.Buffer:
        return self.frame.function.param("temporary", "values", self.frame.sizes.word)

    def feature(self, line: Expr, step: Expr, count: int) -> Expr:
        """Two features, or the last one and a zero."""
        return self.isa.load_pair(self.query, line + step * index(2), is_single=count == 1)

    def multiplied(self, factor: Expr, vector: Expr, total: Expr) -> Expr:
        """`total` plus two products per lane."""
        return self.isa.dot_pairs(total, factor, vector)

    def exponential(self, x: Expr) -> Expr:
        """2^x within 2^-13 of itself: bfloat16 rounds to 2^-9."""
        return coarse_math.exp2(self.b, x)

    def keep(self, buffer: tirx.Buffer, value: Expr, at: Expr) -> None:
        """Store a vector of exponentials as bfloat16."""
        self.b.store(buffer, self.isa.round_pairs(value), at)

    def weights(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        """The exponentials of two keys."""
        return self.isa.load_pair(buffer, at)

    def value_base(self, first: Expr) -> Expr:
        """Where the packed values of a first key begin."""
        sizes, b = self.frame.sizes, self.b
        head = self.frame.head() * b.size(sizes.value_words)
        return b.let(head + tirx.Div(first, index(sizes.depth)) * index(sizes.columns))

    def value_stride(self) -> Expr:
        """How far apart the values of two words are."""
        return index(self.frame.sizes.columns)

    def value(self, line: Expr, at: int, valid: int) -> Expr:
        """A vector of value words."""
        return load(self.values, line + index(at), self.isa.lanes)


class Codes(Pairs):
    """Exact products of codes; exponentials are rounded to codes, too."""

    total, weight, count = "int32", "uint8", "int32"

    def __init__(self, frame: Frame) -> None:
        Floats.__init__(self, frame)
        self.sums = frame.function.param("temporary", "sums", "int32")
        self.terms = tuple(term * LARGEST for term in coarse_math.EXP2_TERMS)

    def key_dtype(self) -> str:
        """Keys and values are read as the signed codes they are made of."""
        return "int8"

    def _values(self) -> tirx.Buffer:
        return self.frame.function.param("temporary", "values", "int8")

    def start(self, panel: Expr, vector: int) -> Expr:
        """The term that takes off the zero point of the queries."""
        lanes = self.isa.lanes
        at = panel * index(self.frame.sizes.width) + index(vector * lanes)
        return load(self.sums, at, lanes)

    def factor(self) -> Expr:
        """Both scales times the factor of the scores."""
        encoding = self.frame.encoding
        scales = self.frame.scalar(encoding.query_scale) * self.frame.scalar(encoding.key_scale)
        return scales * const(self.frame.problem.scale, "float32")

    def feature(self, line: Expr, step: Expr, count: int) -> Expr:
        """A word of codes; those past the last feature meet zeros of the keys."""
        return self.isa.load_dot_activations(self.query, line + step * index(self.isa.dot_width))

    def key(self, word: Expr) -> Expr:
        """A vector of key words."""
        return self.isa.load_dot_weights(self.keys, word * index(self.isa.dot_width))

    def multiplied(self, factor: Expr, vector: Expr, total: Expr) -> Expr:
        """`total` plus the exact products of two words per lane."""
        return self.isa.dot(total, factor, vector)

    def exponential(self, x: Expr) -> Expr:
        """`round(255 * 2^x)` as int32."""
        grown = coarse_math.exp2(self.b, x, self.terms)
        return self.b.let(llvm("llvm.lrint", with_lanes("int32", lanes_of(x)), grown))

    def keep(self, buffer: tirx.Buffer, value: Expr, at: Expr) -> None:
        """Store a vector of codes."""
        self.b.store(buffer, cast(value, "uint8"), at)

    def weights(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        """A word of exponentials."""
        return self.isa.load_dot_activations(buffer, at)

    def value(self, line: Expr, at: int, valid: int) -> Expr:
        """A vector of value words."""
        words = line + index(at)
        return self.isa.load_dot_weights(self.values, words * index(self.isa.dot_width))

    def finished(self, total: Expr, inverse: Expr) -> Expr:
        """Values are packed as `code - 128`: the mean takes off the rest of the zero point."""
        b, frame, lanes = self.b, self.frame, lanes_of(total)
        scale = frame.scalar(frame.encoding.value_scale)
        rest = const(128, "int32") - frame.scalar(frame.encoding.value_zero_point)
        shift = b.let(cast(rest, "float32") * scale)
        zero = const(0.0, "float32")
        shift = tirx.Select(tirx.EQ(inverse, zero), zero, shift)
        return self.isa.multiply_add(
            total, splat(b.let(inverse * scale), lanes), splat(b.let(shift), lanes)
        )


KINDS = {"floats": Floats, "pairs": Pairs, "codes": Codes}
