"""What kernels need to know of a processor: vector shape, integer dot product, masked stores.

The numbers come from the Target's facts; the instructions are reached through LLVM intrinsics.
"""

from dataclasses import dataclass

from tvm import tirx

from effc.codegen.tir import Expr, cast, const, llvm, same_type, splat, with_lanes
from effc.ir.target import VNNI, Target


@dataclass(frozen=True)
class Isa:
    """A processor as kernels see it.

    Attributes:
        lanes: float32 (and int32) elements of a vector register.
        registers: Vector registers.
        dot_width: How many 8-bit products one step of the integer dot product sums per lane.
        has_vnni: Whether `vpdpbusd` exists.
        has_masks: Whether masked loads and stores are cheap.
        l1: Bytes of first-level data cache.
        l2: Bytes of second-level cache.
        cores: Processors the work is split for.
    """

    lanes: int
    registers: int
    dot_width: int
    has_vnni: bool
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
        packed = tirx.BufferLoad(buffer, [tirx.Ramp(at, const(1), count)])
        return packed if self.has_vnni else cast(packed, "int16")

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
