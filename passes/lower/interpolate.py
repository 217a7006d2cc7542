"""Activations between sums of a product and codes, as straight lines of 16-bit codes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.ops.interpolation import PART_BITS, PIECES, SHIFT
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.passes.lower.requantize import Folding, is_scalar_weight, is_single_fused, scalars

effc = torch.ops.effc
FUNCTIONS = {
    f"aten.{name}.default"
    for name in ("silu", "gelu", "sigmoid", "tanh", "hardswish", "elu", "mish", "softplus")
}
LINEAR = "effc.linear_integer.default"
SUMS = ("effc.conv2d_integer.default", LINEAR)
QUANTIZE = "effc.quantize.default"
SHORT = torch.iinfo(torch.int16)
LEAST_BITS, MOST_BITS = 4, 6
LEAST_RANGE = 16.0  # beyond, most functions above are within 1e-5 of a line or a limit
GRID = 1 << 16
FLAT = 1 / 8  # of a code: what may be cut off at either end
ERROR = 1 / 2  # of a code: how far the lines may be from the function


@dataclass(frozen=True)
class Lines:
    """A function as lines over the range in which its codes change.

    Attributes:
        unit: What a step of the 16-bit codes is worth.
        middle: The 16-bit code of 0.0.
        base: Codes at the start of each piece, see `effc.interpolate`.
        slope: Growth over each piece.
        fraction_bits: Bits behind the point.
    """

    unit: float
    middle: int
    base: list[int]
    slope: list[int]
    fraction_bits: int


class Interpolate:
    """quantize(f(x * m + a), s, z) is interpolate(requantize(x, m / u, a / u + v)).

    16-bit codes of the function's operand take the place of float32, lines that of the function. At
    those codes, lines are within half a code of it before the result is rounded.
    """

    name = "interpolate"

    def match(self, node: fx.Node) -> bool:
        """Whether a static quantization reads a function of what comes from integer sums."""
        is_static = op_name(node) == QUANTIZE and all(map(is_scalar_weight, node.args[1:3]))
        value = node.args[0] if is_static else None
        if not isinstance(value, fx.Node) or op_name(value) not in FUNCTIONS:
            return False
        fused = value.args[0]
        if len(value.users) > 1 or not is_single_fused(fused):
            return False
        sums = fused.args[0]
        return sums.op == "call_function" and op_name(sums) in SUMS

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Why lines cannot take the function's place, if they cannot."""
        qmin, qmax, dtype = node.args[3:6]
        limits = torch.iinfo(dtype)
        if dtype.itemsize > 1 or (qmin, qmax) != (limits.min, limits.max):
            return "its codes do not use the whole range of 8 bits"
        return None if _lines_of(node) is not None else "lines are too far from the function"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Fold the scale of the 16-bit codes into the sums; read the lines."""
        lines = _lines_of(node)
        if lines is None:
            return
        fold = Folding(editor, node, torch.tensor(lines.unit))
        factors = fold(node.args[0].args[0], lines.middle)
        codes = editor.call(
            node, effc.requantize.default, *factors, SHORT.min, SHORT.max, torch.int16, before=node
        )
        table = (lines.base, lines.slope, lines.fraction_bits, node.args[5])
        editor.replace(
            node, editor.call(node, effc.interpolate.default, codes, *table, before=node)
        )


def _lines_of(node: fx.Node) -> Lines | None:
    """Lines for the function a quantization reads, if they are close enough."""
    module, value = node.graph.owning_module, node.args[0]
    scale, zero_point = scalars(module, node)
    qmin, qmax = node.args[3:5]

    def codes(x: torch.Tensor) -> torch.Tensor:
        exact = value.target(x, *value.args[1:], **value.kwargs) / scale.double() + zero_point
        return exact.clamp(qmin - 1, qmax + 1)

    reach = float(scale) * 2 * max(abs(qmin - zero_point), abs(qmax - zero_point))
    reach, ends = max(LEAST_RANGE, reach), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    while (codes(2 * reach * ends) - codes(reach * ends)).abs().max() > FLAT:
        reach *= 2  # an argument stretches the function
    low, high = _range_of(value.args[0])
    return fitted(codes, max(low, -reach), min(high, reach))


def _range_of(fused: fx.Node) -> tuple[float, float]:
    """Between which numbers a multiply-add of integer sums lies, whatever is read."""
    sums, *factors = fused.args
    x, weight, zero_point = sums.args[:3]
    known = [weight, *factors] + ([] if zero_point is None else [zero_point])
    if any(one.op != "get_attr" for one in known) or x.meta["val"].dtype != torch.uint8:
        return -math.inf, math.inf
    module = fused.graph.owning_module
    codes, *numbers = (attribute(module, one.target).double() for one in (weight, *factors))
    dim = -1 if op_name(sums) == LINEAR else -3
    if not all(_is_by_channel(one, dim) for one in numbers):
        return -math.inf, math.inf
    zero = 0 if zero_point is None else int(attribute(module, zero_point.target))
    codes, (multiplier, addend) = codes.flatten(1), (one.flatten() for one in numbers)
    above, below = codes.clamp(min=0).sum(1), codes.clamp(max=0).sum(1)
    most, least = (255 - zero) * above - zero * below, (255 - zero) * below - zero * above
    ends = torch.stack([most * multiplier + addend, least * multiplier + addend])
    return float(ends.min()), float(ends.max())


def _is_by_channel(numbers: torch.Tensor, dim: int) -> bool:
    """Whether there is one number, or one for every position of a dimension."""
    is_long_enough = numbers.dim() >= -dim
    return numbers.numel() == (numbers.shape[dim] if is_long_enough else 1)


def fitted(
    codes: Callable[[torch.Tensor], torch.Tensor], lowest: float, highest: float
) -> Lines | None:
    """Lines of least squares on each piece; None where no number of fraction bits is enough.

    Args:
        codes: The function in codes that are not rounded, float64 `[n]` to `[n]`.
        lowest: Below this, codes do not change, or the operand never is.
        highest: Above this, the same.
    """
    grid = torch.linspace(lowest, highest, GRID, dtype=torch.float64)
    found = codes(grid)
    low = grid[((found - found[0]).abs() <= FLAT).cumprod(0).sum() - 1]
    high = grid[-((found - found[-1]).abs() <= FLAT).flip(0).cumprod(0).sum()]
    if low >= high:
        return None
    unit = float(high - low) / (SHORT.max - SHORT.min)
    middle = SHORT.min - round(float(low) / unit)
    shorts = torch.arange(SHORT.min, SHORT.max + 1)
    wanted = codes((shorts - middle).double() * unit)
    lines = _fit(wanted)
    for bits in range(MOST_BITS, LEAST_BITS - 1, -1):
        base, slope = (_whole(numbers * 2**bits) for numbers in lines)
        if base is not None and slope is not None:
            table = base.tolist(), slope.tolist()
            fine = _evaluated(shorts, *table) / 2**bits - 0.5
            error = float((fine - wanted).abs().max())
            return Lines(unit, middle, *table, bits) if error <= ERROR else None
    return None


def _fit(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts with half a code for rounding, and growth times 32, of lines of least squares.

    Args:
        wanted: float64 `[65536]`, codes of -32768 to 32767.

    Returns:
        Both `[64]`, that of piece 0 first.
    """
    pieces = wanted.reshape(PIECES, -1).roll(PIECES // 2, 0)
    part = torch.arange(1 << PART_BITS, dtype=torch.float64)
    centred, mean = part - part.mean(), pieces.mean(1)
    growth = pieces @ centred / (centred @ centred)
    return mean - growth * part.mean() + 0.5, growth * 2**SHIFT


def _whole(numbers: torch.Tensor) -> torch.Tensor | None:
    """Rounded to 16 bits, if they fit."""
    rounded = numbers.round().long()
    return rounded if SHORT.min <= rounded.min() and rounded.max() <= SHORT.max else None


def _evaluated(shorts: torch.Tensor, base: list[int], slope: list[int]) -> torch.Tensor:
    """What the lines give before the last shift."""
    piece, part = (shorts >> PART_BITS) % PIECES, shorts % (1 << PART_BITS)
    grown = torch.tensor(slope)[piece] * part + (1 << (SHIFT - 1)) >> SHIFT
    return (torch.tensor(base)[piece] + grown).double()
