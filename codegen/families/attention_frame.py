"""What all parts of the second stage of attention share: sizes, operands, and where a task is."""

from torch import fx
from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.dtypes import stored
from effc.codegen.evaluate import Point, flat_index
from effc.codegen.families.attention_pack import Packed
from effc.codegen.families.attention_problem import Encoding, Problem
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder
from effc.codegen.region import Region
from effc.codegen.tir import Expr, index, load
from effc.ir.errors import BuildError


class Frame:
    """One attention kernel while it is written.

    Attributes:
        place: Coordinates of the task's outer dimensions.
    """

    def __init__(
        self,
        region: Region,
        anchor: fx.Node,
        problem: Problem,
        isa: Isa,
        name: str,
        symbols: tuple[str, ...],
    ) -> None:
        self.region, self.problem, self.isa = region, problem, isa
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.inputs = [
            self.function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)
        ]
        self.outputs = [
            self.function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        self.sizes = Packed.of(region, problem, isa)
        self.query: Access = region.inputs[problem.query]
        self.value: Access = region.inputs[problem.value]
        self.length, self.source_length = self.query.shape[-2], self.value.shape[-2]
        self.features, self.columns = self.query.shape[-1], self.value.shape[-1]
        self.domain = region.shape(anchor)
        self.place: tuple[Expr, ...] = ()

    @property
    def encoding(self) -> Encoding:
        """What codes stand for."""
        if self.problem.encoding is None:
            raise BuildError("only attention of codes has an encoding")
        return self.problem.encoding

    def scalar(self, position: int) -> Expr:
        """The one number of an input."""
        return self.b.let(load(self.inputs[position], 0))

    def key_place(self) -> tuple[Expr, ...]:
        """Outer coordinates of the keys: grouped queries share a head."""
        if self.problem.repeats == 1:
            return self.place
        head = self.b.let(tirx.Div(self.place[-1], index(self.problem.repeats)))
        return (*self.place[:-1], head)

    def head(self) -> Expr:
        """Number of the key head, counted over all outer dimensions."""
        flat, key = index(0), self.region.inputs[self.problem.key]
        for coordinate, size in zip(self.key_place(), key.shape[:-2], strict=True):
            flat = flat * self.b.size(size) + coordinate
        return self.b.let(flat)

    def query_offset(self, first: Expr) -> Expr:
        """Where a query begins."""
        point = Point((*self.place, first, index(0)))
        return self.b.let(flat_index(self.b, self.query, point))

    def value_offset(self, key: Expr) -> Expr:
        """Where the values of a key begin."""
        point = Point((*self.key_place(), key, index(0)))
        return self.b.let(flat_index(self.b, self.value, point))
