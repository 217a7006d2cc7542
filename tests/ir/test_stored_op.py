"""Packed weights of few bits, against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import effc.ir.ops
from effc.ir.ops.stored import pack_signed
from effc.ir.testing import traced

assert effc.ir.ops  # registers effc's operators
UNPACK = torch.ops.effc.unpack_signed
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@given(st.integers(2, 7), st.integers(1, 4), SHAPES, st.integers(0, 99))
def test_codes_come_back(bits, rows, shape, seed):
    half = 1 << (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, (rows, *shape)).astype(np.int8)
    stored = pack_signed(torch.from_numpy(codes), bits)
    shifted = (codes.reshape(rows, -1) + half).astype(np.uint8)
    single = (shifted[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    expected = np.packbits(single.reshape(rows, -1), axis=-1, bitorder="little")
    np.testing.assert_array_equal(stored.numpy(), expected)
    found = UNPACK(stored, bits, shape)
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), codes)


@pytest.mark.parametrize(
    ("size", "bits", "message"), [(4, 8, "codes of 8 bits"), (3, 4, "8 codes of 4 bits in rows")]
)
def test_what_does_not_fit_is_refused(size, bits, message):
    class Model(nn.Module):
        def forward(self, x):
            return UNPACK(x, bits, [8])

    with pytest.raises(Exception, match=message):
        traced(Model(), torch.zeros(2, size, dtype=torch.uint8))
