"""Convolutional nets keep codes between layers and at residual additions."""

from typing import Any

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.testing import operators

QUANTIZE, DEQUANTIZE = "effc.quantize.default", "effc.dequantize.default"


def test_convolutional_net_keeps_codes_between_layers(
    images: Program, batches: Any, run: Any, layer: Any, calls: Any
) -> None:
    after, _ = run(images, batches((2, 3, 16, 16)), activations="static")
    (pool,) = calls(after, "aten.max_pool2d.default")
    (before,), (behind,) = pool.args[:1], pool.users
    assert op_name(before) == DEQUANTIZE
    assert op_name(behind) == QUANTIZE
    assert before.args[1:] == behind.args[1:3]
    shortcut, (size,) = layer(after, "shortcut"), calls(after, "aten.sym_size.int") or [None]
    assert [op_name(user) for user in shortcut.users] == [QUANTIZE]
    assert size is None or size.args[0].op == "placeholder"
    first, second = calls(after, "aten.add.Tensor")
    assert [op_name(one) for one in first.args] == [DEQUANTIZE, "aten.conv2d.default"]
    assert [op_name(one) for one in second.args] == [DEQUANTIZE, "aten.conv2d.default"]
    assert second.args[0] is layer(after, "depthwise").args[0]


def test_residual_additions_can_stay_in_float(
    images: Program, batches: Any, run: Any, calls: Any
) -> None:
    data = batches((2, 3, 16, 16))
    after, _ = run(images, data, activations="static", residual="float")
    first, second = calls(after, "aten.add.Tensor")
    assert [op_name(one) for one in first.args] == ["aten.conv2d.default"] * 2
    assert [op_name(one) for one in second.args] == ["aten.relu.default", "aten.conv2d.default"]
    codes, _ = run(images, data, activations="static", residual="int8")
    assert operators(codes)[QUANTIZE] == operators(after)[QUANTIZE] + 1


def test_residual_auto_needs_a_good_prediction(
    images: Program, batches: Any, run: Any, layer: Any
) -> None:
    data = batches((2, 3, 16, 16))
    for least, expected in ((20.0, [QUANTIZE]), (80.0, ["aten.add.Tensor"])):
        after, _ = run(images, data, activations="static", static_db=least)
        assert [op_name(user) for user in layer(after, "shortcut").users] == expected
