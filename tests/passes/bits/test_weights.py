"""Weight codes against an independent numpy packer, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from effc.ir.errors import ModelError
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.bits.quantize import Quantize
from effc.passes.bits.weights import WeightPacker, pack

SHAPES = [(5, 7), (6, 3, 3, 3), (8, 1, 3, 3), (1, 1), (3, 200)]


def packed_by_numpy(weight: np.ndarray, largest: int = 127) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = np.zeros(weight.shape, np.int8), []
    for channel, values in enumerate(weight):
        scale = np.float32(np.abs(values).max()) / np.float32(largest)
        if scale < np.float32(2.0**-126):
            scale = np.float32(1)
        steps = values * (np.float32(1) / scale)
        codes[channel] = np.clip(np.rint(steps), -largest, largest).astype(np.int8)
        scales.append(scale)
    return codes, np.array(scales, np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_codes_equal_those_of_numpy(shape: tuple[int, ...], bits: int) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    codes, scale = packed_by_numpy(weight, 2 ** (bits - 1) - 1)
    found = pack(torch.from_numpy(weight), bits=bits)
    assert found.codes.dtype == torch.int8
    assert tuple(found.scale.shape) == (shape[0], *[1] * (len(shape) - 1))
    assert np.array_equal(found.codes.numpy(), codes)
    assert found.scale.numpy().ravel().tobytes() == scale.tobytes()


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=4, max_size=12))
def test_any_weight(numbers: list[float]) -> None:
    weight = np.array(numbers, np.float32).reshape(2, -1) if len(numbers) % 2 == 0 else None
    if weight is None:
        weight = np.array(numbers, np.float32).reshape(1, -1)
    codes, scale = packed_by_numpy(weight)
    found = pack(torch.from_numpy(weight))
    assert np.array_equal(found.codes.numpy(), codes)
    assert np.array_equal(found.scale.numpy().ravel(), scale)
    error = np.abs(found.codes.numpy() * found.scale.numpy().astype(np.float64) - weight)
    assert (error <= found.scale.numpy().astype(np.float64) * 0.50002).all()


def test_a_channel_of_zeros_has_scale_one() -> None:
    found = pack(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert found.scale.tolist() == [[1.0], [pytest.approx(2 / 127)]]
    assert found.codes.tolist() == [[0, 0], [64, -127]]


def test_mse_clips_where_that_pays() -> None:
    weight = torch.cat([torch.linspace(-1, 1, 4001), torch.tensor([1.3])])[None]
    errors = {}
    for observer in ("minmax", "mse"):
        found = pack(weight, observer)
        errors[observer] = float((found.codes * found.scale - weight).square().sum())
    assert errors["mse"] <= errors["minmax"]
    tried = [torch.tensor(1.3 / 127 * f) for f in np.linspace(0.7, 1, 61)]
    best = min(
        float(((weight / s).round().clamp(-127, 127) * s - weight).square().sum()) for s in tried
    )
    assert errors["mse"] <= 1.05 * best


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_clip_more(bits: int) -> None:
    weight = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    found, largest = pack(weight, "mse", bits), 2 ** (bits - 1) - 1
    errors = (found.codes * found.scale - weight).square().sum(1)
    for row, error in zip(weight, errors, strict=True):
        steps = [float(row.abs().max()) / largest * f for f in np.linspace(0.4, 1, 121)]
        tried = [((row / s).round().clamp(-largest, largest) * s - row) for s in steps]
        assert error <= 1.02 * min(float(one.square().sum()) for one in tried)


def test_sqnr_is_that_of_the_weight() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    found = pack(weight)
    noise = (found.codes * found.scale - weight).double().square().sum()
    expected = 10 * np.log10(float(weight.double().square().sum() / noise))
    assert found.sqnr_db == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_weight_is_named(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[2, 1] = value
    program = traced(model, torch.ones(2, 4))
    text = "weight 1.weight of 1 holds NaN or infinite values; it cannot be quantized"
    with pytest.raises(ModelError) as caught:
        Quantize().run(program, PassContext())
    assert str(caught.value) == text


def test_the_original_weight_is_left_as_it_is() -> None:
    model = nn.Linear(8, 4)
    before = model.weight.detach().clone()
    program = traced(model, torch.ones(2, 8))
    Quantize().run(program, PassContext())
    assert torch.equal(model.weight, before)


def test_tied_weights_are_packed_once() -> None:
    module = traced(nn.Linear(8, 4), torch.ones(2, 8)).forward
    (weight,) = [node for node in module.graph.nodes if str(node.target) == "weight"]
    packer = WeightPacker("minmax")
    assert packer.of(module, weight, "a") is packer.of(module, weight, "b")
