"""Transcendental functions against float64, in units in the last place."""

import numpy as np
import pytest
import torch
from scipy import special

from effc.codegen.vector_math import EXP2_TERMS

F = torch.nn.functional


class Functions(torch.nn.Module):
    """All functions of one input at once."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "exp": torch.exp(x),
            "sigmoid": torch.sigmoid(x),
            "silu": F.silu(x),
            "tanh": torch.tanh(x),
            "erf": torch.erf(x),
            "log": torch.log(x.abs()),
            "gelu": F.gelu(x),
        }


def test_powers_of_two_are_accurate():
    """The fit alone; rounding in float32 adds an ulp or two."""
    x = np.linspace(-0.5, 0.5, 20_001)
    assert np.abs(np.polyval(EXP2_TERMS, x) / 2.0**x - 1).max() <= 1e-8


def sigmoid(x: np.ndarray) -> np.ndarray:
    return special.expit(x)


EXACT = {
    "exp": np.exp,
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "erf": special.erf,
    "log": lambda x: np.log(np.abs(x)),
}
ULPS = {"exp": 2, "sigmoid": 4, "silu": 5, "tanh": 4, "erf": 7, "log": 3}
SPECIAL = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 88.7, -103.0, 1e30])


@pytest.fixture
def points() -> np.ndarray:
    rng = np.random.default_rng(0)
    near = rng.uniform(-10, 10, 40_000)
    far = rng.choice([-1, 1], 10_000) * np.exp(rng.uniform(-40, 4.4, 10_000))
    return np.concatenate([near, far, np.linspace(-4, 4, 8_003)]).astype(np.float32)


def test_functions_are_accurate(compiled, target, points):
    x = torch.from_numpy(points)
    found = compiled(Functions(), {"x": x}, target).outputs({"x": x})
    for name, function in EXACT.items():
        with np.errstate(all="ignore"):
            expected = function(points.astype(np.float64))
        rounded = expected.astype(np.float32)
        valid = np.isfinite(rounded) & (np.abs(rounded) > 1e-37)
        spacing = np.spacing(np.abs(rounded[valid]))
        worst = (np.abs(found[name][valid] - expected[valid]) / spacing).max()
        assert worst <= ULPS[name], f"{name}: {worst:.2f} ulp"


def test_gelu_is_close_to_its_definition(compiled, target, points):
    x = torch.from_numpy(points)
    found = compiled(Functions(), {"x": x}, target).outputs({"x": x})["gelu"]
    wide = points.astype(np.float64)
    expected = wide * special.ndtr(wide)
    assert np.abs(found - expected).max() <= 4e-7 * np.abs(wide).max()


def test_special_values_follow_ieee(compiled, target):
    x = torch.from_numpy(np.resize(SPECIAL, 37))
    found = compiled(Functions(), {"x": x}, target).outputs({"x": x})
    with np.errstate(all="ignore"):
        for name, function in EXACT.items():
            expected = function(x.numpy().astype(np.float64)).astype(np.float32)
            if name == "silu":
                expected = np.where(np.isneginf(x.numpy()), found[name], expected)
            assert np.array_equal(np.isnan(expected), np.isnan(found[name])), name
            infinite = np.isinf(expected)
            assert np.array_equal(expected[infinite], found[name][infinite]), name


class Coarse(torch.nn.Module):
    """Activations whose results are stored in 16 bits, and a product of codes behind which they are
    not."""

    def forward(self, x: torch.Tensor, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        weight, zero = torch.eye(16, dtype=torch.int8), torch.zeros((), dtype=torch.int32)
        total = torch.ops.effc.linear_integer(codes, weight, zero) * (1 / 8) - 16.0
        return {
            "half": F.silu(x).to(torch.float16),
            "silu": F.silu(total),
            "sigmoid": torch.sigmoid(total),
            "gelu": F.gelu(total),
            "tanh": F.gelu(total, approximate="tanh"),
        }


def test_coarse_functions_are_within_their_bound(compiled, target):
    x = torch.linspace(-40, 40, 4_001)
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    inputs = {"x": x, "codes": codes}
    found = compiled(Coarse(), inputs, target).outputs(inputs)
    wide = codes.double().numpy() / 8 - 16.0
    for name in ("silu", "sigmoid"):
        expected = EXACT[name](wide)
        nonzero = expected != 0
        worst = np.abs(found[name] / expected - 1)[nonzero].max()
        assert 2.0**-20 < worst <= 2.0**-12, f"{name}: {worst}"
    gelu = wide * special.ndtr(wide)
    assert 2e-5 < np.abs(found["gelu"] - gelu).max() <= 2e-4
    near = np.abs(wide) <= 1
    assert (np.abs(found["gelu"] - gelu) <= 2.0**-8 * wide**2 + 1e-7)[near].all()
    by_tanh = F.gelu(torch.from_numpy(wide), approximate="tanh").numpy()
    assert np.abs(found["tanh"] - by_tanh).max() <= 4e-6
    expected = EXACT["silu"](x.double().numpy())
    assert np.abs(found["half"] - expected).max() <= 2.0**-10 * np.abs(expected).max()


def test_coarse_special_values_follow_ieee(compiled, target):
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"silu": F.silu(x).half(), "sigmoid": torch.sigmoid(x).half()}

    x = torch.from_numpy(np.resize(SPECIAL[~np.isneginf(SPECIAL)], 37))
    found = compiled(Half(), {"x": x}, target).outputs({"x": x})
    with np.errstate(all="ignore"):
        for name in ("silu", "sigmoid"):
            expected = EXACT[name](x.numpy().astype(np.float64)).astype(np.float16)
            assert np.allclose(found[name], expected, rtol=2**-9, atol=1e-7, equal_nan=True), name
