"""Squeeze-and-excitation on codes: the mean over an image, and the product with a gate."""

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.passes.lower.chain import Chain
from effc.passes.lower.requantize import QUANTIZE, is_scalar_weight, scalars

aten, effc = torch.ops.aten, torch.ops.effc
POOLS = ("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
MEAN, MULTIPLY, DEQUANTIZE = "aten.mean.dim", "aten.mul.Tensor", "effc.dequantize.default"
IMAGE, ONE = [2, 3], (1, 1)


def is_image_mean(node: fx.Node) -> bool:
    """Whether a node is the mean of whole images `[batch, channels, height, width]`."""
    if node.op != "call_function" or op_name(node) not in (*POOLS, MEAN) or node.kwargs:
        return False
    rank, shape = node.args[0].meta["val"].dim(), node.meta["val"].shape
    if op_name(node) in POOLS:
        return rank == 4 and tuple(shape[2:]) == ONE
    return rank == 4 and sorted(dim % 4 for dim in node.args[1] or ()) == IMAGE


def gate_of(product: fx.Node, value: fx.Node) -> fx.Node | None:
    """What a product multiplies each channel of a map by, if it is a gate computed at run time."""
    if product.op != "call_function" or op_name(product) != MULTIPLY:
        return None
    others = [one for one in product.args if one is not value]
    if len(others) != 1 or not isinstance(others[0], fx.Node) or others[0].op != "call_function":
        return None
    shape = others[0].meta["val"].shape
    return others[0] if len(shape) == 4 and tuple(shape[2:]) == ONE else None


class MeanOfCodes:
    """mean(dequantize(q, s, z)) over the image is mean(q) * s - z * s, rounded once.

    The sum of the codes of a map is exact in float32 up to 65,536 positions.
    """

    name = "mean-of-codes"

    def match(self, node: fx.Node) -> bool:
        """Whether a node is the mean over the image of what is dequantized."""
        return is_image_mean(node) and _is_decoded(node.args[0])

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Why the mean cannot be taken of the codes, if it cannot."""
        return _parameters_reason(node.args[0])

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Take the mean of the codes; scale it."""
        new = Chain(editor, node)
        has_image = node.meta["val"].dim() == 4
        codes = node.args[0].args[0]
        mean = new(aten.mean.dim, codes, IMAGE, has_image, dtype=torch.float32)
        scale, zero_point = _parameters(editor, node.args[0])
        weights = _weights(editor, node, scale=scale, shift=-scale * zero_point)
        editor.replace(node, new(effc.fused_multiply_add.default, mean, *weights))


class GateOfCodes:
    """dequantize(q, s, z) * g is q * (g * s) - g * s * z, rounded once.

    Where that is quantized by t and y alone, it is requantize(q, g * s / t, y - g * s * z / t): the
    numbers of each channel are found once, not at every position.
    """

    name = "gate-of-codes"

    def match(self, node: fx.Node) -> bool:
        """Whether a node is the product of a dequantized map and a gate."""
        return _decoded_map(node) is not None

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Why the gate cannot be folded into the scale, if it cannot."""
        source = _decoded_map(node)
        return None if source is None else _parameters_reason(source)

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Multiply codes by what the gate makes of their scale."""
        source = _decoded_map(node)
        gate = None if source is None else gate_of(node, source)
        if source is None or gate is None:
            return
        new, codes, reader = Chain(editor, node), source.args[0], _static_reader(node)
        scale, zero_point = _parameters(editor, source)
        unit, shift = scalars(editor.module, reader) if reader else (torch.tensor(1.0), 0)
        ratio = scale / unit.double()
        weights = _weights(
            editor, node, ratio=ratio, zero=-ratio * zero_point, shift=torch.tensor(float(shift))
        )
        multiplier = new(aten.mul.Tensor, gate, weights[0])
        addend = new(effc.fused_multiply_add.default, gate, weights[1], weights[2])
        if reader is None:
            target, limits = effc.fused_multiply_add.default, ()
        else:
            target, limits = effc.requantize.default, reader.args[3:6]
        result = new(target, codes, multiplier, addend, *limits)
        editor.replace(node if reader is None else reader, result)


def _is_decoded(value: object) -> bool:
    """Whether something is dequantized from unsigned codes of 8 bits."""
    if not isinstance(value, fx.Node) or value.op != "call_function":
        return False
    is_decoded = op_name(value) == DEQUANTIZE
    return is_decoded and value.args[0].meta["val"].dtype == torch.uint8


def _decoded_map(product: fx.Node) -> fx.Node | None:
    """The dequantized operand of a product with a gate."""
    if product.op != "call_function" or op_name(product) != MULTIPLY:
        return None
    operands = [one for one in product.args if _is_decoded(one)]
    has_gate = len(operands) == 1 and gate_of(product, operands[0]) is not None
    return operands[0] if has_gate else None


def _static_reader(product: fx.Node) -> fx.Node | None:
    """The static quantization that alone reads a product."""
    reader = next(iter(product.users), None)
    if reader is None or len(product.users) > 1 or op_name(reader) != QUANTIZE:
        return None
    return reader if all(map(is_scalar_weight, reader.args[1:3])) else None


def _parameters_reason(source: fx.Node) -> str | None:
    weights = [one for one in source.args[1:] if one is not None]
    is_static = all(map(is_scalar_weight, weights))
    return None if is_static else "scale and zero point are not one constant each"


def _parameters(editor: Editor, source: fx.Node) -> tuple[torch.Tensor, int]:
    """Scale in float64, and zero point."""
    scale, zero_point = source.args[1:]
    zero = 0 if zero_point is None else int(attribute(editor.module, str(zero_point.target)))
    return attribute(editor.module, str(scale.target)).double(), zero


def _weights(editor: Editor, node: fx.Node, **numbers: torch.Tensor) -> list[fx.Node]:
    """Numbers as weights of float32."""
    return [
        editor.weight(f"{node.name}_{name}", number.float(), node)
        for name, number in numbers.items()
    ]
