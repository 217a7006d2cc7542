"""Activations for values that come from or go to 8 or 16 bits.

A code of 8 bits is off by up to 2^-9 of its range, bfloat16 by 2^-9 of its value; these are within
2^-12 of theirs (GELU of 1), at a third of the instructions of `vector_math`.
"""

import math
from collections.abc import Callable

import torch
from torch import fx
from tvm import tirx

from effc.codegen.operands import argument
from effc.codegen.tir import Builder, Expr, const, lanes_of, same_type
from effc.codegen.vector_math import (
    AVX512_LANES,
    CURRENT_ROUNDING,
    fma,
    like,
    polynomial,
    scaled,
)

LOG2E = math.log2(math.e)
FLOOR = 9  # towards minus infinity, without exceptions
LARGEST = 126.0
EXP2_TERMS = (7.80252892e-2, 2.26066051e-1, 6.95833897e-1, 9.99925238e-1)


GELU_BOUND = 3.9
GELU_TERMS = (
    4.559091851e-8, -3.193792188e-6, 9.576281161e-5, -1.625962827e-3, 1.753237342e-2,
    -1.291151579e-1, 7.957426177e-1,
)  # fmt: skip


def exp2(b: Builder, x: Expr, terms: tuple[float, ...] = EXP2_TERMS) -> Expr:
    """2^x within 2^-13 of it; above 2^126 any number so large or infinity, below 2^-126 zero or so.

    A polynomial of degree 3 of least relative error on the fraction, scaled by the whole part; its
    `terms` may hold a constant factor.
    """
    if lanes_of(x) != AVX512_LANES:
        x = b.let(tirx.Min(like(x, LARGEST), tirx.Max(like(x, -LARGEST), x)))
        whole = b.let(same_type("llvm.floor", x))
        return b.let(scaled(b, polynomial(b.let(x - whole), terms), whole))
    every, rounding = const(-1, "int16"), const(CURRENT_ROUNDING, "int32")
    reduce, scale = (f"llvm.x86.avx512.mask.{name}.ps.512" for name in ("reduce", "scalef"))
    fraction = b.let(same_type(reduce, x, const(FLOOR, "int32"), x, every, rounding))
    power = b.let(polynomial(fraction, terms))
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


def gelu(b: Builder, x: Expr) -> Expr:
    """`x/2 + x/2 t P(t^2)` with t = x limited to 3.9 either side, within 2e-4 of GELU.

    P has degree 6 and was fitted for the least largest error under the condition `t P(t^2) = 1` at
    the limit, so that beyond it the result is x or 0. The step of 8-bit codes of a GELU that
    reaches 3 is sixty times the error; near 0 the error is below 2^-8 x^2.
    """
    limited = tirx.Max(like(x, -GELU_BOUND), tirx.Min(like(x, GELU_BOUND), x))
    limited, half = b.let(limited), b.let(x * like(x, 0.5))
    odd = b.let(limited * polynomial(b.let(limited * limited), GELU_TERMS))
    return b.let(fma(half, odd, half))


FUNCTIONS: dict[str, Callable[[Builder, Expr], Expr]] = {
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": gelu,
}


def function_of(node: fx.Node, name: str) -> Callable[[Builder, Expr], Expr] | None:
    """The coarse form of a float32 operator, if it has one; that of GELU by tanh is another."""
    is_float32 = node.meta["val"].dtype == torch.float32
    by_tanh = name == "gelu" and argument(node, 1, "approximate", "none") == "tanh"
    return FUNCTIONS.get(name) if is_float32 and not by_tanh else None
