"""Division, remainders and shifts, on scalars or vectors."""

from tvm import tirx

from effc.codegen.operands import bound, is_float, library
from effc.codegen.tir import Expr, dtype_of, same_type, split_dtype


def truncated_divide(x: Expr, y: Expr) -> Expr:
    """Integer quotient rounded towards zero; never traps.

    Lanes past the end of a masked vector hold anything, and processors trap on a division by zero
    and of the smallest number by -1.
    """
    zero, minus = bound(y, 0), bound(y, -1)
    is_special = tirx.EQ(y, zero) | tirx.EQ(y, minus)
    quotient = tirx.Div(x, tirx.Select(is_special, bound(y, 1), y))
    return tirx.Select(tirx.EQ(y, minus), bound(x, 0) - x, quotient)


def floor_divide(x: Expr, y: Expr) -> Expr:
    """Quotient rounded down."""
    if is_float(x):
        return same_type("llvm.floor", x / y)
    quotient = truncated_divide(x, y)
    wrong = x - quotient * y
    negative = ((x < bound(x, 0)) ^ (y < bound(y, 0))) & tirx.NE(wrong, bound(x, 0))
    return tirx.Select(negative, quotient - bound(x, 1), quotient)


def remainder(x: Expr, y: Expr) -> Expr:
    """Remainder with the sign of the divisor; of floats exact, also of large quotients."""
    if not is_float(x):
        return x - floor_divide(x, y) * y
    rest, zero = library("fmod", x, y), bound(x, 0)
    is_other_sign = ((rest < zero) & (y > zero)) | ((rest > zero) & (y < zero))
    return tirx.Select(is_other_sign, rest + y, rest)


def _bits(x: Expr) -> int:
    """Bits of an integer expression."""
    return int("".join(filter(str.isdigit, split_dtype(dtype_of(x))[0])))


def _is_within(x: Expr, count: Expr) -> Expr:
    """Whether a shift by a count moves bits of `x` and not all of them out."""
    is_large = count >= bound(count, _bits(x))
    return tirx.bitwise_xor(is_large | (count < bound(count, 0)), bound(is_large, True))


def shifted_left(x: Expr, count: Expr) -> Expr:
    """`x * 2^count`; 0 if no bit is left or the count is negative."""
    is_within = _is_within(x, count)
    safe = tirx.Select(is_within, count, bound(count, 0))
    return tirx.Select(is_within, x << safe, bound(x, 0))


def shifted_right(x: Expr, count: Expr) -> Expr:
    """`floor(x / 2^count)`; only the sign is left if the count is too large or negative."""
    is_within = _is_within(x, count)
    if dtype_of(x).startswith("u"):
        shifted = x >> tirx.Select(is_within, count, bound(count, 0))
        return tirx.Select(is_within, shifted, bound(x, 0))
    return x >> tirx.Select(is_within, count, bound(count, _bits(x) - 1))
