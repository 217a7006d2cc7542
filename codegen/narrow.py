"""Codes of 8 bits from four vectors of an anchor's sums at once.

Packing four vectors of 16 into one of 64 takes fewer instructions than narrowing each, and a table
is read for 32 codes together. Written as LLVM text of the instructions of AVX-512BW.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import fx
from tvm import tirx

from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.isa import Isa
from effc.codegen.operands import bound
from effc.codegen.quantization import requantized
from effc.codegen.region import Region
from effc.codegen.tir import Expr, with_lanes
from effc.ir.ops.interpolation import PART_BITS
from effc.ir.opspec import op_name

TOGETHER, LANES = 4, 16
REQUANTIZE, INTERPOLATE = "effc.requantize.default", "effc.interpolate.default"
SUMS, SHORTS, CODES = "<16 x i32>", "<32 x i16>", "<64 x i8>"
INTRINSICS = f"""
declare {SHORTS} @llvm.x86.avx512.packssdw.512({SUMS}, {SUMS})
declare {CODES} @llvm.x86.avx512.packuswb.512({SHORTS}, {SHORTS})
declare {CODES} @llvm.x86.avx512.packsswb.512({SHORTS}, {SHORTS})
declare {SHORTS} @llvm.x86.avx512.vpermi2var.hi.512({SHORTS}, {SHORTS}, {SHORTS})
declare {SHORTS} @llvm.x86.avx512.pmul.hr.sw.512({SHORTS}, {SHORTS})
declare {SHORTS} @llvm.sadd.sat.v32i16({SHORTS}, {SHORTS})
"""


@dataclass(frozen=True)
class Narrowing:
    """The end of a region: rounding, and possibly a function of the codes by straight lines.

    Attributes:
        rounded: The `requantize`.
        interpolated: The `interpolate` of its codes, if there is one.
    """

    rounded: fx.Node
    interpolated: fx.Node | None

    @classmethod
    def of(cls, region: Region, isa: Isa) -> "Narrowing | None":
        """How a region ends, if it ends that way and the processor has the instructions."""
        if not isa.has_masks or isa.lanes != LANES or len(region.results) != 1:
            return None
        last = region.results[0]
        is_table = last.op == "call_function" and op_name(last) == INTERPOLATE
        rounded, interpolated = (last.args[0], last) if is_table else (last, None)
        is_rounded = rounded.op == "call_function" and op_name(rounded) == REQUANTIZE
        is_short = last.meta["val"].dtype in (torch.uint8, torch.int8)
        return cls(rounded, interpolated) if is_rounded and is_short else None

    def sums(self, scope: Evaluator, point: Point) -> Expr:
        """The codes of one vector before they are limited to their type."""
        codes = requantized(scope.builder, self.rounded, scope.operands(self.rounded, point))
        low, dtype = self.rounded.args[3], self.rounded.meta["val"].dtype
        is_free = low <= torch.iinfo(dtype).min
        return codes if is_free else scope.builder.let(tirx.Max(codes, bound(codes, low)))

    def codes(self, sums: list[Expr]) -> Expr:
        """64 codes of four vectors; the function around must import `code`."""
        return tirx.call_pure_extern(with_lanes(self._scalar, TOGETHER * LANES), self._name, *sums)

    def part(self, codes: Expr, first: int, count: int) -> Expr:
        """What came from `count` vectors; the function around must import `code`."""
        if count == TOGETHER:
            return codes
        dtype = with_lanes(self._scalar, count * LANES)
        return tirx.call_pure_extern(dtype, f"effc_part_{first}_{count}", codes)

    @property
    def code(self) -> str:
        """The functions in LLVM's language."""
        parts = [
            _part(first, count)
            for count in range(1, TOGETHER)
            for first in range(TOGETHER - count + 1)
        ]
        return "\n".join([INTRINSICS, self._function, *parts])

    @property
    def _scalar(self) -> str:
        last = self.rounded if self.interpolated is None else self.interpolated
        return "uint8" if last.meta["val"].dtype == torch.uint8 else "int8"

    @property
    def _name(self) -> str:
        if self.interpolated is None:
            return f"effc_narrow_{self._scalar}"
        return f"effc_interpolate_{zlib.crc32(repr(self.interpolated.args[1:]).encode()):x}"

    @property
    def _function(self) -> str:
        pack = "packuswb" if self._scalar == "uint8" else "packsswb"
        order = [TOGETHER * lane + vector for vector in range(TOGETHER) for lane in range(4)]
        halves = "".join(self._half(*names) for names in ("uab", "vcd"))
        return f"""
define internal {CODES} @{self._name}({SUMS} %a, {SUMS} %b, {SUMS} %c, {SUMS} %d) alwaysinline nounwind {{
{halves}
  %p = call {CODES} @llvm.x86.avx512.{pack}.512({SHORTS} %u, {SHORTS} %v)
  %q = bitcast {CODES} %p to {SUMS}
  %s = shufflevector {SUMS} %q, {SUMS} poison, {_places(order)}
  %r = bitcast {SUMS} %s to {CODES}
  ret {CODES} %r
}}
"""  # noqa: E501

    def _half(self, name: str, first: str, second: str) -> str:
        """Two vectors packed into 16-bit codes, and their function."""
        pack = f"call {SHORTS} @llvm.x86.avx512.packssdw.512({SUMS} %{first}, {SUMS} %{second})"
        if self.interpolated is None:
            return f"  %{name} = {pack}\n"
        base, slope, fraction_bits = self.interpolated.args[1:4]
        lookup = "@llvm.x86.avx512.vpermi2var.hi.512"
        return f"""
  %{name}0 = {pack}
  %{name}1 = lshr {SHORTS} %{name}0, {_same(PART_BITS)}
  %{name}2 = and {SHORTS} %{name}0, {_same((1 << PART_BITS) - 1)}
  %{name}3 = call {SHORTS} {lookup}({_table(base[:32])}, {SHORTS} %{name}1, {_table(base[32:])})
  %{name}4 = call {SHORTS} {lookup}({_table(slope[:32])}, {SHORTS} %{name}1, {_table(slope[32:])})
  %{name}5 = call {SHORTS} @llvm.x86.avx512.pmul.hr.sw.512({SHORTS} %{name}4, {SHORTS} %{name}2)
  %{name}6 = call {SHORTS} @llvm.sadd.sat.v32i16({SHORTS} %{name}3, {SHORTS} %{name}5)
  %{name} = ashr {SHORTS} %{name}6, {_same(fraction_bits)}
"""


def _part(first: int, count: int) -> str:
    result, begin = f"<{count * LANES} x i8>", first * LANES
    places = _places(list(range(begin, begin + count * LANES)))
    return f"""
define internal {result} @effc_part_{first}_{count}({CODES} %a) alwaysinline nounwind {{
  %r = shufflevector {CODES} %a, {CODES} poison, {places}
  ret {result} %r
}}
"""


def _places(numbers: list[int]) -> str:
    return f"<{len(numbers)} x i32> <{', '.join(f'i32 {number}' for number in numbers)}>"


def _table(entries: list[int]) -> str:
    return f"{SHORTS} <{', '.join(f'i16 {entry}' for entry in entries)}>"


def _same(number: int) -> str:
    return f"<{', '.join([f'i16 {number}'] * 32)}>"
