"""Low-bit codes in registers: unpacking them, and sums of their products with int8 activations."""

from dataclasses import dataclass, field

from tvm import tirx

from effc.codegen.isa import Isa
from effc.codegen.pack import STEPS, fields_of
from effc.codegen.tir import Builder, Expr, cast, const, index, load, prefetch, with_lanes

LARGEST_ACTIVATION, LARGEST_PAIR = 127, 2**15 - 1
AHEAD_NBYTES = 4096  # a page: hardware does not look further ahead


@dataclass
class Block:
    """The codes of 32 features and one vector of columns; every byte is loaded once.

    Attributes:
        b: Where loads go.
        codes: Packed codes.
        at: Where the block's vector starts.
        bits: Width of a code.
        lanes: Columns of a vector.
        looks_ahead: Whether to ask for the bytes a page further on, where many products follow
            each load; where few do, the processor sees by itself what comes next.
    """

    b: Builder
    codes: tirx.Buffer
    at: Expr
    bits: int
    lanes: int
    looks_ahead: bool
    _loaded: dict[tuple[int, str], Expr] = field(default_factory=dict)

    def step(self, step: int) -> Expr:
        """Codes of four features per lane, as bytes."""
        return self._joined("uint8", self.lanes * 4, step, 0)

    def feature(self, feature: int) -> Expr:
        """Codes of one feature per lane, as int32."""
        step, byte = divmod(feature, 4)
        return cast(self._joined("uint32", self.lanes, step, 8 * byte), "int32")

    def _joined(self, scalar: str, count: int, step: int, shift: int) -> Expr:
        """The fields of a code put together, in elements of a type."""
        total, first = None, 0
        dtype = with_lanes(scalar, count)
        for place, width in fields_of(self.bits):
            number, turn = divmod(step, 8 // width)
            value = self._bytes(first + number, scalar)
            right = shift + turn * width
            if right:
                value = value >> const(right, dtype)
            if width < 8 or scalar != "uint8":
                value = value & const((1 << width) - 1, dtype)
            value = value << const(place, dtype) if place else value
            total = value if total is None else total | value
            first += width
        return self.b.let(total)

    def _bytes(self, number: int, scalar: str) -> Expr:
        key = number, scalar
        if key not in self._loaded:
            at = self.at + index(number * self.lanes * 4)
            value = load(self.codes, at, self.lanes * 4)
            if self.looks_ahead:
                self.b.emit(prefetch(self.codes, at + index(AHEAD_NBYTES)))
            wide = value if scalar == "uint8" else tirx.reinterpret(f"uint32x{self.lanes}", value)
            self._loaded[key] = self.b.let(wide)
        return self._loaded[key]


@dataclass
class Sums:
    """int32 sums, `lanes` each, of products of codes and activations.

    `vpdpbusd` adds four products to a sum. Without it pairs of products are summed in int16 by
    `vpmaddubsw`, over as many steps as cannot overflow, before they are widened; codes of 8 bits go
    in two halves.

    Attributes:
        b: Where statements go.
        isa: The processor.
        totals: The int32 sums.
        count: How many there are.
        bits: Width of a code.
    """

    b: Builder
    isa: Isa
    totals: tirx.Buffer
    count: int
    bits: int

    def __post_init__(self) -> None:
        self._parts = [(0, 1)] if self.bits < 8 else [(0, 1), (4, 16)]
        lanes = self.isa.lanes * 2
        self._pairs = [] if self.isa.has_vnni else [
            self.b.local("int16", self.count * lanes, "pairs") for _ in self._parts
        ]  # fmt: skip
        self._steps = 0

    @property
    def run(self) -> int:
        """Steps whose pairs int16 can hold."""
        largest = (1 << min(self.bits, 7)) - 1 if self.bits < 8 else 15
        return min(LARGEST_PAIR // (2 * LARGEST_ACTIVATION * largest), STEPS)

    def add(self, number: int, codes: Expr, activations: Expr) -> None:
        """Add the products of one step to a sum.

        Args:
            number: Which sum.
            codes: uint8, four per lane.
            activations: int8, four per lane.
        """
        isa, at = self.isa, number * self.isa.lanes
        if isa.has_vnni:
            total = load(self.totals, at, isa.lanes)
            self.b.store(self.totals, isa.dot(total, codes, activations), at)
            return
        for pairs, (shift, _) in zip(self._pairs, self._parts, strict=True):
            part = self._part(codes, shift)
            product = isa.dot_bytes(part, activations)
            if self._steps:
                product = load(pairs, at * 2, isa.lanes * 2) + product
            self.b.store(pairs, product, at * 2)

    def _part(self, codes: Expr, shift: int) -> Expr:
        if self.bits < 8:
            return codes
        dtype = with_lanes("uint8", self.isa.lanes * 4)
        return codes >> const(shift, dtype) if shift else codes & const(15, dtype)

    def end_step(self, is_last: bool) -> None:
        """Widen the pairs if another step would overflow them, or none follows."""
        self._steps += 1
        if not self._pairs or (self._steps < self.run and not is_last):
            return
        self._steps = 0
        for number in range(self.count):
            at = number * self.isa.lanes
            total = load(self.totals, at, self.isa.lanes)
            for pairs, (_, factor) in zip(self._pairs, self._parts, strict=True):
                total = total + self.isa.add_pairs(load(pairs, at * 2, self.isa.lanes * 2), factor)
            self.b.store(self.totals, total, at)
