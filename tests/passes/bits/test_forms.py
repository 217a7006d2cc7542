"""Formats: their text, their rounding beside numpy, their bytes."""

import numpy as np
import pytest
import torch

from effc.ir.errors import UsageError
from effc.passes.bits.forms import FLOAT, INT8, Form


@pytest.mark.parametrize(
    ("text", "form", "printed"),
    [
        ("float", FLOAT, "float32"), ("none", FLOAT, "float32"), ("8", INT8, "w8a8"),
        ("4", Form(4, 32, 32), "w4a32g32"), ("w4a8g64", Form(4, 8, 64), "w4a8g64"),
        ("w2g0", Form(2, 32, 0), "w2a32"), ("w8a32", Form(8, 32, 0), "w8a32"),
    ],
)  # fmt: skip
def test_text(text, form, printed):
    assert Form.parse(text, group=32) == form
    assert str(form) == printed


@pytest.mark.parametrize("text", ["", "1", "9", "x", "w4a16", "4g", "-4", "16"])
def test_formats_there_are_none_of(text):
    with pytest.raises(UsageError):
        Form.parse(text)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("group", [0, 3, 4, 100])
def test_rounding_to_nearest(bits, group):
    weight = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    found = Form(bits, 32, group).restored(weight).numpy().reshape(5, 8)
    rows, largest = weight.numpy().reshape(5, 8).astype(np.float64), 2 ** (bits - 1) - 1
    for row in range(5):
        for first in range(0, 8, group or 8):
            part = rows[row, first : first + (group or 8)]
            scale = np.abs(part).max() / largest or 1.0
            error = np.abs(found[row, first : first + (group or 8)] - part)
            assert (error <= scale / 2 * (1 + 1e-5)).all()
            codes = found[row, first : first + (group or 8)] / scale
            np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
            assert np.abs(codes).max() <= largest + 1e-4
    assert FLOAT.restored(weight) is weight


def test_bytes():
    shape = torch.Size((10, 3, 5))
    assert FLOAT.nbytes(shape) == 10 * 15 * 4
    assert INT8.nbytes(shape) == 10 * (15 + 4)
    assert Form(4, 32, 0).nbytes(shape) == 10 * (8 + 4)
    assert Form(3, 32, 4).nbytes(shape) == 10 * (6 + 4 * 4)
