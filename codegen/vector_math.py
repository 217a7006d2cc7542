"""Transcendental functions on float32 vectors, as polynomials.

LLVM turns vector calls of libm functions into one scalar call per lane, so these are written out.
Errors named below are the largest seen against float64 over the whole range, in units in the last
place of float32; tests measure them.
"""

import math

from tvm import tirx

from effc.codegen.operands import is_nan
from effc.codegen.tir import Builder, Expr, cast, const, dtype_of, lanes_of, same_type, with_lanes

LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
EXP_MIN, EXP_MAX = -104.5, 88.72283
RECIPROCAL_MAX = 2.0**126
AVX512_LANES, CURRENT_ROUNDING = 16, 4
TO_NEAREST = 8  # without exceptions
EXP_TERMS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
EXP2_MIN = -160.0
EXP2_TERMS = (
    1.534581209e-4, 1.339993136e-3, 9.618488958e-3, 5.550328777e-2, 2.402264689e-1, 6.931472057e-1,
    1.0,
)  # fmt: skip


def like(expr: Expr, value: float) -> Expr:
    """A float32 constant with the lanes of an expression."""
    return const(value, dtype_of(expr))


def fma(x: Expr, y: Expr, z: Expr) -> Expr:
    """`x * y + z` rounded once."""
    return same_type("llvm.fma", x, y, z)


def polynomial(x: Expr, terms: tuple[float, ...]) -> Expr:
    """Horner's scheme, highest power first."""
    total = like(x, terms[0])
    for term in terms[1:]:
        total = fma(total, x, like(x, term))
    return total


def bits_of(x: Expr) -> Expr:
    """The bits of a float32 as int32."""
    return tirx.reinterpret(with_lanes("int32", lanes_of(x)), x)


def float_of(bits: Expr) -> Expr:
    """The float32 with these int32 bits."""
    return tirx.reinterpret(with_lanes("float32", lanes_of(bits)), bits)


def power_of_two(exponent: Expr) -> Expr:
    """2^exponent for an int32 exponent of a normal number."""
    bias, shift = const(127, dtype_of(exponent)), const(23, dtype_of(exponent))
    return float_of((exponent + bias) << shift)


def exp(b: Builder, x: Expr) -> Expr:
    """e^x, within 2 ulp; 0 below -104, infinity above 88.72.

    Cody-Waite reduction x = n ln 2 + r and a degree-6 polynomial in r (Moshier, Cephes). `Max` and
    `Min` give their second operand where one is NaN, which keeps it.
    """
    clamped = b.let(tirx.Min(like(x, EXP_MAX + 0.5), tirx.Max(like(x, EXP_MIN), x)))
    n = b.let(same_type("llvm.nearbyint", clamped * like(x, 1 / math.log(2))))
    r = b.let(fma(n, like(x, -LN2_HIGH), clamped))
    r = b.let(fma(n, like(x, -LN2_LOW), r))
    p = b.let(fma(polynomial(r, EXP_TERMS), r * r, r + like(x, 1.0)))
    return b.let(scaled(b, p, n))


def exp2(b: Builder, x: Expr) -> Expr:
    """2^x within 2 ulp for x up to 127; 0 for -infinity.

    A polynomial of degree 6 on [-0.5, 0.5], fitted for the relative error by reweighted least
    squares.
    """
    if lanes_of(x) == AVX512_LANES:  # of an infinity this fraction is 0
        every, rounding = const(-1, "int16"), const(CURRENT_ROUNDING, "int32")
        name, to_nearest = "llvm.x86.avx512.mask.reduce.ps.512", const(TO_NEAREST, "int32")
        fraction = b.let(same_type(name, x, to_nearest, x, every, rounding))
        whole = b.let(x - fraction)
    else:
        x = b.let(tirx.Max(like(x, EXP2_MIN), x))
        whole = b.let(same_type("llvm.nearbyint", x))
        fraction = b.let(x - whole)
    return b.let(scaled(b, b.let(polynomial(fraction, EXP2_TERMS)), whole))


def scaled(b: Builder, x: Expr, n: Expr) -> Expr:
    """`x * 2^n` for a whole n, with overflow to infinity and gradual underflow."""
    if lanes_of(x) == AVX512_LANES:
        i16, i32 = const(-1, "int16"), const(CURRENT_ROUNDING, "int32")
        return same_type("llvm.x86.avx512.mask.scalef.ps.512", x, n, x, i16, i32)
    whole = b.let(cast(n, "int32"))
    half = b.let(whole >> const(1, dtype_of(whole)))
    return x * power_of_two(half) * power_of_two(whole - half)


def reciprocal(b: Builder, x: Expr) -> Expr:
    """1 / x within 1 ulp for x of at least 1; 0 above 2^126.

    An estimate of 14 bits and one Newton step, in which infinity must not meet its zero.
    """
    if lanes_of(x) != AVX512_LANES:
        return b.let(like(x, 1.0) / x)
    estimate = same_type("llvm.x86.avx512.rcp14.ps.512", x, x, const(-1, "int16"))
    estimate = b.let(estimate)
    finite = tirx.Min(like(x, RECIPROCAL_MAX), x)
    error = b.let(fma(like(x, 0.0) - finite, estimate, like(x, 1.0)))
    return b.let(fma(estimate, error, estimate))


def sigmoid(b: Builder, x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return reciprocal(b, b.let(like(x, 1.0) + exp(b, b.let(like(x, 0.0) - x))))


def silu(b: Builder, x: Expr) -> Expr:
    """X / (1 + e^-x)."""
    return b.let(x * sigmoid(b, x))


TANH_SMALL = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)


def tanh(b: Builder, x: Expr) -> Expr:
    """Hyperbolic tangent, within 3 ulp: an odd polynomial below 0.625, else by exp."""
    size = b.let(same_type("llvm.fabs", x))
    square = b.let(x * x)
    small = fma(polynomial(square, TANH_SMALL) * square, x, x)
    doubled = b.let(tirx.Min(like(x, 20.0), size) * like(x, 2.0))
    inverse = reciprocal(b, b.let(exp(b, doubled) + like(x, 1.0)))
    large = like(x, 1.0) - like(x, 2.0) * inverse
    signed = same_type("llvm.copysign", b.let(large), x)
    return b.let(tirx.Select(size < like(x, 0.625), small, signed))


ERF_BOUND = 3.92
ERF_NUMERATOR = (
    2.050115538e-6, 2.848777474e-4, 3.765420895e-3, 5.274812298e-2, 1.904019854e-1, 1.128379146,
)  # fmt: skip
ERF_DENOMINATOR = (
    3.809174456e-5, 1.162486755e-3, 1.496882689e-2, 1.141072519e-1, 5.020721084e-1, 1.0,
)  # fmt: skip
LOG_TERMS = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


def erf(b: Builder, x: Expr) -> Expr:
    """Error function, within 7 ulp: x P(x^2) / Q(x^2).

    Both polynomials have degree 5 and were fitted by reweighted least squares of the relative error
    on [0, 3.92]; beyond, float32 cannot tell the result from 1.
    """
    clamped = b.let(tirx.Max(like(x, -ERF_BOUND), tirx.Min(like(x, ERF_BOUND), x)))
    square = b.let(clamped * clamped)
    top = b.let(clamped * polynomial(square, ERF_NUMERATOR))
    ratio = b.let(top * reciprocal(b, b.let(polynomial(square, ERF_DENOMINATOR))))
    return b.let(tirx.Max(like(x, -1.0), tirx.Min(like(x, 1.0), ratio)))


def log(b: Builder, x: Expr) -> Expr:
    """Natural logarithm, within 2 ulp on normal numbers (Moshier, Cephes)."""
    bits = b.let(bits_of(tirx.Max(x, like(x, 1.17549435e-38))))
    i32 = dtype_of(bits)
    offset = b.let((bits - const(0x3F3504F3, i32)) >> const(23, i32))
    fraction = float_of(bits - (offset << const(23, i32)))
    m = b.let(fraction - like(x, 1.0))
    e = b.let(cast(offset, "float32"))
    square = b.let(m * m)
    tail = b.let(fma(e, like(x, LN2_LOW), polynomial(m, LOG_TERMS) * m * square))
    total = fma(e, like(x, LN2_HIGH), m + fma(square, like(x, -0.5), tail))
    zero = tirx.Select(tirx.EQ(x, like(x, 0.0)), like(x, -math.inf), b.let(total))
    invalid = tirx.Select(x < like(x, 0.0), like(x, math.nan), zero)
    infinite = tirx.Select(tirx.EQ(x, like(x, math.inf)), x, invalid)
    return b.let(tirx.Select(is_nan(x), x, infinite))
