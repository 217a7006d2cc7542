"""Formats: their text, their rounding beside numpy, their bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from effc.ir.errors import UsageError
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.bits.forms import FLOAT, INT8, Form
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.manager import PassManager

STORED = 2.0**-8  # a step of bfloat16, in which scales are stored


@pytest.mark.parametrize(
    ("text", "form", "printed"),
    [
        ("float", FLOAT, "float32"), ("none", FLOAT, "float32"), ("8", INT8, "w8a8"),
        ("4", Form(4, 32, 32), "w4a32g32"), ("w4a8g64", Form(4, 8, 64), "w4a8g64"),
        ("w2g0", Form(2, 32, 0), "w2a32"), ("w8a32", Form(8, 32, 0), "w8a32"),
        ("ternary", Form(2, 32, 32, "ternary"), "t2a32g32"),
        ("w4a8g64z", Form(4, 8, 64, symmetric=False), "w4a8g64z"),
        ("w4c", Form(4, 8, 0, "channel"), "w4a8c"), ("w3a8c", Form(3, 8, 0, "channel"), "w3a8c"),
        ("w8a8c", INT8, "w8a8"),
    ],
)  # fmt: skip
def test_text(text, form, printed):
    assert Form.parse(text, group=32) == form
    assert str(form) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "9",
        "x",
        "w4a16",
        "4g",
        "-4",
        "16",
        "ternaryz",
        "t3",
        "w4a32c",
        "w4cz",
        "t2c",
        "w4g32c",
    ],
)
def test_formats_there_are_none_of(text):
    with pytest.raises(UsageError):
        Form.parse(text)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [0, 3, 4, 100])
def test_rounding_to_nearest(bits, group):
    """Values of the grid, nearer on the whole than the scale of the largest magnitude allows."""
    weight = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    found = Form(bits, 32, group).restored(weight).numpy().reshape(5, 8)
    rows, largest = weight.numpy().reshape(5, 8).astype(np.float64), 2 ** (bits - 1) - 1
    assert (found[1] == 0).all()
    for row in (0, 2, 3, 4):
        for first in range(0, 8, group or 8):
            part = rows[row, first : first + (group or 8)]
            rounded = found[row, first : first + (group or 8)]
            scale = np.abs(part).max() / largest
            plain = np.clip(np.round(part / scale), -largest, largest) * scale
            allowed = np.abs(plain - part) + np.abs(part) * STORED
            assert ((rounded - part) ** 2).sum() <= (allowed**2).sum()
            assert len(np.unique(rounded)) <= 2**bits
    assert FLOAT.restored(weight) is weight


@pytest.mark.parametrize("text", ["4", "w3g0", "w2z", "w5g64z", "w8g32", "ternary", "t2a8g64"])
def test_restored_and_bytes_are_those_of_what_quantize_weights_stores(text):
    form = Form.parse(text, group=32, activation=8)
    torch.manual_seed(0)
    program = traced(nn.Linear(96, 24, bias=False), torch.randn(2, 96))
    weight = program.weights()["weight"]
    settings = {**form.rules(), "bits": form.bits, "group": form.group}
    step = QuantizeWeights(**settings | {"symmetric": form.symmetric})
    found = PassManager((step,)).run(program, PassContext()).program
    assert found.weight_nbytes == form.nbytes(weight.shape)
    node = next(n for n in found.forward.graph.nodes if "dequantize_grouped" in str(n.target))
    operands = [None if n is None else found.weights()[str(n.target)] for n in node.args[:3]]
    stored = torch.ops.effc.dequantize_grouped(*operands, *node.args[3:])
    torch.testing.assert_close(form.restored(weight), stored, rtol=0, atol=0)
    assert form.is_grouped
    assert str(Form.parse(str(form))) == str(form)


def test_bytes():
    shape = torch.Size((10, 3, 5))
    assert FLOAT.nbytes(shape) == 10 * 15 * 4
    assert INT8.nbytes(shape) == 10 * (15 + 4)
    assert Form(4, 32, 0).nbytes(shape) == 10 * (8 + 2)
    assert Form(3, 32, 4).nbytes(shape) == 10 * (6 + 4 * 2)
    assert Form(3, 32, 4, symmetric=False).nbytes(shape) == 10 * (6 + 4 * 2 + 2)
    assert Form(2, 32, 4, "ternary").nbytes(shape) == 10 * 2 * (4 + 4 * 2)
    assert Form(2, 8, 4, "ternary").weight_bits == 4
