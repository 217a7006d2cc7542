"""Small floats beside ml_dtypes and torch, the code book beside its definition."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from effc.ir.float_formats import LARGEST, nearest_codes, power_of_two, rounded, values_of

PEERS = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", PEERS)
def test_values_of_codes(name):
    found = values_of(name).numpy()
    expected = np.arange(len(found), dtype=np.uint8).view(PEERS[name]).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert np.nanmax(np.where(np.isfinite(found), found, -1)) == LARGEST[name]


@pytest.mark.parametrize("name", PEERS)
@given(st.lists(st.floats(-70000, 70000, width=32), min_size=1, max_size=40))
def test_rounding(name, values):
    inside = np.clip(np.array(values, np.float32), -LARGEST[name], LARGEST[name])
    found = rounded(torch.from_numpy(inside), name).numpy()
    np.testing.assert_array_equal(found, inside.astype(PEERS[name]).astype(np.float32))


@pytest.mark.parametrize("name", PEERS)
def test_ties_go_to_even(name):
    ladder = np.unique(values_of(name).numpy()[np.isfinite(values_of(name).numpy())])
    middle = ((ladder[1:].astype(np.float64) + ladder[:-1]) / 2).astype(np.float32)
    found = rounded(torch.from_numpy(middle), name).numpy()
    np.testing.assert_array_equal(found, middle.astype(PEERS[name]).astype(np.float32))


def test_beyond_the_largest_and_nan():
    values = torch.tensor([1e9, -1e9, torch.inf, torch.nan, -0.0])
    assert rounded(values, "e4m3").tolist() == [448, -448, 448, 0, 0]
    assert nearest_codes(torch.zeros(1), "e2m1").tolist() == [0]


def test_the_code_book_of_quantiles():
    """NF4: quantiles of the normal distribution, an exact zero, ends at -1 and 1 (QLoRA)."""
    offset = 0.9677083
    high = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    low = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([high, [0.0], low]))
    np.testing.assert_allclose(values_of("nf4").numpy(), expected / expected.max(), atol=2e-6)
    values = torch.linspace(-1.2, 1.2, 999)
    nearest = np.abs(values.numpy()[:, None] - values_of("nf4").numpy()).min(1)
    np.testing.assert_allclose((rounded(values, "nf4") - values).abs().numpy(), nearest, atol=1e-7)


@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_powers_of_two(value):
    found = float(power_of_two(torch.tensor([value])))
    assert found <= value < 2 * found
    assert torch.tensor([found]).to(torch.float8_e8m0fnu).float().item() == found
