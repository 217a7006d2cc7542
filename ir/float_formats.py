"""Small floating-point numbers and code books: what a code stands for, and the nearest code.

A format is a table of the values of its codes. `e4m3`, `e5m2` and `e2m1` are sign, exponent and
mantissa with subnormal numbers (OCP float8, 2023, and microscaling formats, 2023); `nf4` are the
16 quantiles of QLoRA (T. Dettmers et al., 2023, arXiv 2305.14314), which are given as constants.
"""

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
MINIFLOATS = {"e4m3": (4, 3, 7), "e5m2": (5, 2, 15), "e2m1": (2, 1, 1)}  # exponent, mantissa, bias
CODE_BITS = {"e4m3": 8, "e5m2": 8, "e2m1": 4, "nf4": 4}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0, "e2m1": 6.0, "nf4": 1.0}
E8M0_BIAS = 127


def values_of(name: str) -> Tensor:
    """The value of every code of a format: float32 `[2 ** bits]`; NaN and infinities as they are.

    Args:
        name: `e4m3`, `e5m2`, `e2m1` or `nf4`.
    """
    if name == "nf4":
        return torch.tensor(NF4)
    exponent_bits, mantissa_bits, bias = MINIFLOATS[name]
    codes = torch.arange(1 << CODE_BITS[name])
    mantissa = (codes & ((1 << mantissa_bits) - 1)).double()
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    sign = 1.0 - 2.0 * (codes >> (exponent_bits + mantissa_bits))
    fraction = mantissa / (1 << mantissa_bits)
    normal = (1 + fraction) * torch.exp2(exponent.double() - bias)
    size = torch.where(exponent > 0, normal, fraction * 2.0 ** (1 - bias))
    if name == "e5m2":
        infinite = torch.where(mantissa == 0, torch.inf, torch.nan)
        size = torch.where(exponent == (1 << exponent_bits) - 1, infinite, size)
    elif name == "e4m3":
        size = torch.where((codes & 127) == 127, torch.nan, size)
    return (sign * size).float()


def nearest_codes(values: Tensor, name: str) -> Tensor:
    """The codes of the nearest finite values, uint8; ties go to the even code, NaN to 0.0.

    Args:
        values: Floating, any shape; beyond the largest value, that one is nearest.
        name: As in `values_of`.
    """
    table = values_of(name).double()
    finite = torch.nonzero(torch.isfinite(table)).flatten()
    finite = finite[(table[finite] != 0) | (torch.signbit(table[finite]) == 0)]
    order = finite[torch.argsort(table[finite])]
    ladder = table[order]
    middle = (ladder[1:] + ladder[:-1]) / 2
    wide = values.detach().double().nan_to_num(0.0)
    place = torch.searchsorted(middle, wide.contiguous())
    above = (place + 1).clamp(max=len(order) - 1)
    is_tie = (place < len(middle)) & (middle[place.clamp(max=len(middle) - 1)] == wide)
    place = torch.where(is_tie & (order[place] % 2 == 1) & (order[above] % 2 == 0), above, place)
    return order[place].to(torch.uint8)


def rounded(values: Tensor, name: str) -> Tensor:
    """The nearest finite values of a format, float32."""
    return values_of(name)[nearest_codes(values, name).long()]


def power_of_two(values: Tensor) -> Tensor:
    """The largest powers of two that are no larger, as E8M0 holds them: float32, 2^-126 to 2^127.

    2^-127, which E8M0 has, too, is subnormal in float32 and left out.
    """
    _, exponent = torch.frexp(values.double())
    return torch.exp2((exponent - 1).clamp(1 - E8M0_BIAS, E8M0_BIAS).double()).float()
