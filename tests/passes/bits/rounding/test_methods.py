"""What `quantize-weights` stores in every format and by every method, beside other libraries."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.encoding import unpack_codes
from effc.ir.errors import UsageError
from effc.ir.program import Program, attribute
from effc.ir.testing import EXACT, assert_same_outputs, operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.grouped import SCHEMES, Format, Job
from effc.passes.bits.layers import Layer
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.bits.rounding.codecs import IntegerCodec
from effc.passes.bits.rounding.gptq import Gptq
from effc.passes.bits.rounding.methods import rounded_by
from effc.passes.manager import PassManager

GROUPED = "effc.dequantize_grouped.default"


def job(weight: Tensor, scheme: str, group: int, observer: str = "minmax", **options) -> Job:
    node = torch.fx.Graph().placeholder("x")
    fixed = SCHEMES[scheme][2] if scheme in SCHEMES else None
    form = Format(scheme, 4, fixed or group, False, observer)
    return Job(weight, form, Layer(node, "layer", "linear"), PassContext(), **options)


@pytest.fixture
def weight() -> Tensor:
    drawn = np.random.default_rng(0).standard_normal((6, 100)).astype(np.float32)
    drawn[:, 40:] *= 1e-3
    drawn[2] = 0
    return torch.from_numpy(drawn)


def per_group(weight: Tensor, group: int, rounded) -> np.ndarray:
    """Every group of every row, one after the other."""
    found = np.zeros(weight.shape)
    for row, values in enumerate(weight.numpy()):
        for first in range(0, len(values), group):
            part = values[first : first + group].astype(np.float64)
            if part.any():
                found[row, first : first + group] = rounded(part)
    return found


def cast(values: np.ndarray, dtype) -> np.ndarray:
    return values.astype(np.float32).astype(dtype).astype(np.float64)


def microscaled(part: np.ndarray, dtype, exponent: int, largest: float) -> np.ndarray:
    """OCP microscaling: the shared exponent is that of the largest value, less the format's."""
    scale = 2.0 ** (np.floor(np.log2(np.abs(part).max())) - exponent)
    return cast(np.clip(part / scale, -largest, largest), dtype) * scale


@pytest.mark.parametrize(
    ("scheme", "dtype", "exponent", "largest"),
    [("mxfp4", ml_dtypes.float4_e2m1fn, 2, 6), ("mxfp8", ml_dtypes.float8_e4m3fn, 8, 448)],
)
def test_microscaling(weight, scheme, dtype, exponent, largest):
    found = rounded_by("nearest", job(weight, scheme, 32))
    assert found.scale.dtype == torch.float8_e8m0fnu
    expected = per_group(weight, 32, partial(
        microscaled, dtype=dtype, exponent=exponent, largest=largest))  # fmt: skip
    np.testing.assert_array_equal(found.restored().numpy(), expected)


@pytest.mark.parametrize(
    ("scheme", "dtype", "largest"),
    [("e4m3", ml_dtypes.float8_e4m3fn, 448), ("e5m2", ml_dtypes.float8_e5m2, 57344)],
)
@pytest.mark.parametrize("group", [0, 32, -1])
def test_float8(weight, scheme, dtype, largest, group):
    def rounded(part):
        scale = cast(np.abs(part).max() / largest, ml_dtypes.bfloat16)
        return cast(np.clip(part / scale, -largest, largest), dtype) * scale

    found = rounded_by("nearest", job(weight, scheme, group))
    if group == -1:
        assert found.scale.shape == (1, 1)
        expected = rounded(weight.numpy().astype(np.float64))
    else:
        expected = per_group(weight, group or 100, rounded)
    np.testing.assert_allclose(found.restored().numpy(), expected, rtol=1e-6)


def test_nvfp4(weight):
    """E2M1 in groups of 16, scales E4M3 of one float32 scale for all."""
    unit = np.float32(np.abs(weight.numpy()).max() / (6 * 448))

    def rounded(part):
        wanted = np.abs(part).max() / np.float64(unit) / 6
        scale = cast(np.array(wanted), ml_dtypes.float8_e4m3fn) or 2.0**-9
        return cast(np.clip(part / (scale * unit), -6, 6), ml_dtypes.float4_e2m1fn) * scale * unit

    found = rounded_by("nearest", job(weight, "nvfp4", 16))
    assert found.scale.dtype == torch.float8_e4m3fn
    expected = per_group(weight, 16, rounded)
    np.testing.assert_allclose(found.restored().numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_size_and_error(weight, scheme):
    found = rounded_by("nearest", job(weight, scheme, 32))
    group, scale_nbytes = found.group, found.scale.element_size()
    packed = 6 * (100 * found.bits // 8 + scale_nbytes * -(-100 // group))
    assert found.nbytes == packed + 4 * 2**found.bits
    clipped = rounded_by("nearest", job(weight, scheme, 32, "mse"))
    assert clipped.sqnr_db(weight) >= found.sqnr_db(weight)
    assert found.sqnr_db(weight) > (28 if found.bits == 8 and scheme != "e5m2" else 14)
    assert (found.restored()[2] == 0).all()


def test_one_scale_for_all(weight):
    found = rounded_by("nearest", job(weight, "int", -1))
    codes = unpack_codes(found.codes, 4, 100).numpy().astype(np.float64)
    zero = int(unpack_codes(found.zero_point, 4, 1))
    step = (weight.max() - weight.min()) / 15
    assert float(found.scale) == pytest.approx(float(step), rel=2**-8)
    np.testing.assert_allclose(found.restored(), (codes - zero) * float(found.scale), rtol=1e-6)
    assert float((found.restored() - weight).abs().max()) <= 1.1 * float(step)


class Chain(nn.Module):
    """Two layers read one value; a third reads what they compute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(64, 48), nn.Linear(64, 48, bias=False)
        self.down = nn.Linear(48, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.left(x)) * self.right(x))


@pytest.fixture
def chain() -> Program:
    return traced(Chain(), torch.randn(2, 3, 64), dynamic={"x.0": "batch"})


@pytest.fixture
def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(64, 64, generator=generator)
    return [{"x": torch.randn(8, 3, 64, generator=generator) @ mixing} for _ in range(3)]


def quantized(program: Program, data, **options) -> Program:
    ctx = PassContext(calibration=data)
    return PassManager((QuantizeWeights(**options),)).run(program, ctx).program


def restored(program: Program, name: str) -> Tensor:
    """The weight a layer reads."""
    (node,) = [n for n in program.forward.graph.nodes
               if n.op == "call_function" and GROUPED in str(n.target) + ".default"
               and str(n.args[0].target).startswith(name)]  # fmt: skip
    operands = [None if one is None else attribute(program.forward, one.target)
                for one in node.args[:3]]  # fmt: skip
    return torch.ops.effc.dequantize_grouped(*operands, *node.args[3:6])


@pytest.mark.parametrize("sequential", [True, False])
def test_layers_are_rounded_for_what_they_read(chain, data, sequential):
    """Second moments of the layer's input in a hand-written forward pass."""
    after = quantized(chain, data, rounding="gptq", bits=3, sequential=sequential, compensation=0.0)
    module = Chain()
    x = torch.cat([batch["x"] for batch in data]).reshape(-1, 64)
    codec = IntegerCodec(3)

    def by_hand(layer, inputs):
        moment = (inputs.T @ inputs).double().numpy()
        options = Gptq(3, 32, act_order=True, codec=codec)
        return torch.from_numpy(options.rounded(layer.weight.detach().double().numpy(), moment))

    with torch.no_grad():
        found = {name: by_hand(getattr(module, name), x) for name in ("left", "right")}
        if sequential:
            for name, one in found.items():
                getattr(module, name).weight.copy_(one)
        hidden = torch.tanh(module.left(x)) * module.right(x)
        found["down"] = by_hand(module.down, hidden)
    for name, one in found.items():
        torch.testing.assert_close(restored(after, name), one.float(), rtol=1e-6, atol=1e-7)


def test_gptq_loses_less(chain, data, error_db):
    found = {
        way: error_db(chain, quantized(chain, data, rounding=way, bits=3, activations="float32"),
                      data[0])
        for way in ("nearest", "gptq")
    }  # fmt: skip
    assert found["gptq"] > found["nearest"] + 3


@pytest.mark.parametrize("scheme", ["nf4", "mxfp4", "nvfp4", "e4m3"])
def test_gptq_in_float_formats(chain, data, error_db, scheme):
    found = {
        way: error_db(chain, quantized(chain, data, rounding=way, scheme=scheme), data[0])
        for way in ("nearest", "gptq")
    }
    assert found["gptq"] > found["nearest"] + 1


def test_lowering_keeps_codes_of_tables(chain):
    after = quantized(chain, None, scheme="nf4")
    lowered = PassManager.parse("lower-integer").run(after).program
    counts = operators(lowered)
    assert counts["effc.linear_grouped.default"] == 3
    assert counts[GROUPED] == 0
    assert_same_outputs(after, lowered, tolerance=EXACT)


def test_bad_usage(chain, data):
    with pytest.raises(UsageError, match="rounding=gptq needs data; give --calib"):
        quantized(chain, None, rounding="gptq")
    with pytest.raises(UsageError, match="rounding=hqq finds zero points; add symmetric=false"):
        quantized(chain, None, rounding="hqq")
    with pytest.raises(UsageError, match="group=-1 goes with rounding=nearest"):
        quantized(chain, data, rounding="gptq", group=-1)


def test_hqq_stores_whole_zero_points(weight):
    found = rounded_by("hqq", job(weight, "int", 32, "mse"))
    plain = rounded_by("nearest", job(weight, "int", 32, "minmax"))
    assert found.zero_point is not None
    lost = [(one.restored() - weight).abs().mean() for one in (found, plain)]
    assert lost[0] <= lost[1] * 1.05
