"""Activations for values that come from or go to 8 or 16 bits.

A code of 8 bits is off by up to 2^-9 of its range, bfloat16 by 2^-9 of its value; these are within
2^-12 of theirs, at a third of the instructions of `vector_math`.
"""

import math
from collections.abc import Callable

from tvm import tirx

from effc.codegen.tir import Builder, Expr, const, lanes_of, same_type
from effc.codegen.vector_math import AVX512_LANES, CURRENT_ROUNDING, like, polynomial, scaled

LOG2E = math.log2(math.e)
FLOOR = 9  # towards minus infinity, without exceptions
LARGEST = 126.0
EXP2_TERMS = (7.80252892e-2, 2.26066051e-1, 6.95833897e-1, 9.99925238e-1)


def exp2(b: Builder, x: Expr) -> Expr:
    """2^x within 2^-13 of it; above 2^126 any number so large or infinity, below 2^-126 zero or so.

    A polynomial of degree 3 of least relative error on the fraction, scaled by the whole part.
    """
    if lanes_of(x) != AVX512_LANES:
        x = b.let(tirx.Min(like(x, LARGEST), tirx.Max(like(x, -LARGEST), x)))
        whole = b.let(same_type("llvm.floor", x))
        return b.let(scaled(b, polynomial(b.let(x - whole), EXP2_TERMS), whole))
    every, rounding = const(-1, "int16"), const(CURRENT_ROUNDING, "int32")
    reduce, scale = (f"llvm.x86.avx512.mask.{name}.ps.512" for name in ("reduce", "scalef"))
    fraction = b.let(same_type(reduce, x, const(FLOOR, "int32"), x, every, rounding))
    power = b.let(polynomial(fraction, EXP2_TERMS))
    return b.let(same_type(scale, power, x, power, every, rounding))


def reciprocal(b: Builder, x: Expr) -> Expr:
    """1 / x within 2^-14 of it for x of at least 1."""
    if lanes_of(x) != AVX512_LANES:
        return b.let(like(x, 1.0) / x)
    return b.let(same_type("llvm.x86.avx512.rcp14.ps.512", x, x, const(-1, "int16")))


def sigmoid(b: Builder, x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return reciprocal(b, b.let(like(x, 1.0) + exp2(b, b.let(x * like(x, -LOG2E)))))


def silu(b: Builder, x: Expr) -> Expr:
    """X / (1 + e^-x)."""
    return b.let(x * sigmoid(b, x))


FUNCTIONS: dict[str, Callable[[Builder, Expr], Expr]] = {"sigmoid": sigmoid, "silu": silu}
