"""What kernels need to know of a processor: vector shape, integer dot product, masked stores.

The numbers come from the Target's facts; the instructions are reached through LLVM intrinsics.
"""

from dataclasses import dataclass

from tvm import tirx

from effc.codegen.tir import Expr, cast, const, dtype_of, llvm, load, same_type, splat, with_lanes
from effc.ir.target import BF16, VNNI, Target

PAIR_FUNCTION, ROUND_FUNCTION = "effc_dot_pairs", "effc_round_bfloat16"


TABLE = 16  # entries of a table that registers hold


@dataclass(frozen=True)
class Isa:
    """A processor as kernels see it.

    Attributes:
        lanes: float32 (and int32) elements of a vector register.
        registers: Vector registers.
        dot_width: How many 8-bit products one step of the integer dot product sums per lane.
        has_vnni: Whether `vpdpbusd` exists.
        has_bfloat16: Whether `vdpbf16ps` exists.
        has_masks: Whether masked loads and stores are cheap.
        l1: Bytes of first-level data cache.
        l2: Bytes of second-level cache.
        cores: Processors the work is split for.
    """

    lanes: int
    registers: int
    dot_width: int
    has_vnni: bool
    has_bfloat16: bool
    has_masks: bool
    l1: int
    l2: int
    cores: int

    @classmethod
    def of(cls, target: Target) -> "Isa":
        """Read a target's facts."""
        has_vnni = target.has(VNNI)
        return cls(
            lanes=target.vector_bits // 32,
            registers=target.vector_registers,
            dot_width=4 if has_vnni else 2,
            has_vnni=has_vnni,
            has_bfloat16=target.has(BF16),
            has_masks=target.has("avx512vl"),
            l1=target.l1,
            l2=target.l2,
            cores=target.cores,
        )

    def multiply_add(self, x: Expr, y: Expr, z: Expr) -> Expr:
        """`x * y + z` rounded once, on float32 vectors."""
        return same_type("llvm.fma", x, y, z)

    def load_dot_activations(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        """`dot_width` consecutive uint8 codes, broadcast to all lanes of an int32 vector."""
        if self.has_vnni:
            codes = tirx.BufferLoad(buffer, [tirx.Ramp(at, const(1), 4)])
            return splat(tirx.reinterpret("int32", codes), self.lanes)
        pair = tirx.BufferLoad(buffer, [tirx.Ramp(at, const(1), 2)])
        word = cast(tirx.reinterpret("uint16", pair), "uint32")
        spread = (word | (word << const(8, "uint32"))) & const(0x00FF00FF, "uint32")
        return splat(tirx.reinterpret("int32", spread), self.lanes)

    def load_dot_weights(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        """`dot_width` int8 weights for each lane, in the form `dot` takes."""
        count = self.lanes * self.dot_width
        return self.dot_weights(tirx.BufferLoad(buffer, [tirx.Ramp(at, const(1), count)]))

    def dot_weights(self, packed: Expr) -> Expr:
        """int8 weights in the form `dot` takes."""
        return packed if self.has_vnni else cast(packed, "int16")

    def dot_ones(self) -> Expr:
        """The activation 1 for every product of a step, in the form `dot` takes."""
        return const(0x01010101 if self.has_vnni else 0x00010001, with_lanes("int32", self.lanes))

    def dot(self, total: Expr, activations: Expr, weights: Expr) -> Expr:
        """`total[i] + sum_j activations[j] * weights[i][j]` without saturation."""
        lanes, result = self.lanes, with_lanes("int32", self.lanes)
        if self.has_vnni:
            codes = tirx.reinterpret(with_lanes("int8", lanes * 4), activations)
            name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
            return llvm(name, result, total, codes, weights)
        codes = tirx.reinterpret(with_lanes("int16", lanes * 2), activations)
        name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[lanes]
        return total + llvm(name, result, codes, weights)

    def dot_bytes(self, codes: Expr, activations: Expr) -> Expr:
        """int16 sums of pairs of products of uint8 codes and int8 activations; they saturate."""
        name = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}[self.lanes]
        return llvm(name, with_lanes("int16", self.lanes * 2), codes, activations)

    def add_pairs(self, pairs: Expr, factor: int) -> Expr:
        """int32 sums of two neighbouring int16 elements, times a factor."""
        name = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[self.lanes]
        factors = const(factor, with_lanes("int16", self.lanes * 2))
        return llvm(name, with_lanes("int32", self.lanes), pairs, factors)

    def looked_up(self, table: tirx.Buffer, codes: Expr, entries: int) -> Expr:
        """The float32 values of a table at int32 codes; of 16 entries from registers.

        Args:
            table: float32 [entries].
            codes: An int32 vector, 0 to `entries - 1`.
            entries: 16 take one permutation, or two and a choice; others go through memory.
        """
        result = with_lanes("float32", self.lanes)
        if entries != TABLE or self.lanes not in (8, 16):
            return tirx.BufferLoad(table, [codes])
        parts = [load(table, first, self.lanes) for first in range(0, TABLE, self.lanes)]
        if self.lanes == TABLE:
            return llvm("llvm.x86.avx512.permvar.sf.512", result, parts[0], codes)
        low, high = (llvm("llvm.x86.avx2.permps", result, part, codes) for part in parts)
        return tirx.Select(codes < const(self.lanes, dtype_of(codes)), low, high)

    def load_pair(self, buffer: tirx.Buffer, at: Expr, is_single: bool = False) -> Expr:
        """Two consecutive bfloat16 elements (or one and a zero) in all lanes of a uint32 vector."""
        if is_single:
            return splat(cast(tirx.BufferLoad(buffer, [at]), "uint32"), self.lanes)
        pair = tirx.BufferLoad(buffer, [tirx.Ramp(at, const(1), 2)])
        return splat(tirx.reinterpret("uint32", pair), self.lanes)

    def dot_pairs(self, total: Expr, pairs: Expr, weights: Expr) -> Expr:
        """`total[i] + sum_j pairs[i][j] * weights[i][j]` of bfloat16 pairs, in float32.

        The function around it must import `pair_code`.
        """
        pair = with_lanes("uint16", self.lanes * 2)
        operands = [tirx.reinterpret(pair, operand) for operand in (pairs, weights)]
        return tirx.call_pure_extern(
            with_lanes("float32", self.lanes), PAIR_FUNCTION, total, *operands
        )

    def round_pairs(self, values: Expr) -> Expr:
        """A float32 vector as bfloat16 bits; the function around it must import `pair_code`."""
        return tirx.call_pure_extern(with_lanes("uint16", self.lanes), ROUND_FUNCTION, values)

    @property
    def pair_code(self) -> str:
        """LLVM's form of products and roundings; TVM's own code generator has no bfloat16 type."""
        total, codes = f"<{self.lanes} x float>", f"<{self.lanes * 2} x i16>"
        pairs, name = f"<{self.lanes * 2} x bfloat>", f"dpbf16ps.{self.lanes * 32}"
        taken = f"{total} %c, {codes} %a, {codes} %b"
        half, bits = f"<{self.lanes} x bfloat>", f"<{self.lanes} x i16>"
        narrow = f"@llvm.x86.avx512bf16.cvtneps2bf16.{self.lanes * 32}"
        return f"""
define internal {total} @{PAIR_FUNCTION}({taken}) alwaysinline nounwind {{
  %x = bitcast {codes} %a to {pairs}
  %y = bitcast {codes} %b to {pairs}
  %r = call {total} @llvm.x86.avx512bf16.{name}({total} %c, {pairs} %x, {pairs} %y)
  ret {total} %r
}}
declare {total} @llvm.x86.avx512bf16.{name}({total}, {pairs}, {pairs})
define internal {bits} @{ROUND_FUNCTION}({total} %a) alwaysinline nounwind {{
  %r = call {half} {narrow}({total} %a)
  %c = bitcast {half} %r to {bits}
  ret {bits} %c
}}
declare {half} {narrow}({total})
"""
