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
from effc.ir.testing import BOUND, EXACT, assert_same_outputs, operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.grouped import SCHEMES, Format, Job
from effc.passes.bits.layers import Layer
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.bits.rounding.adaround import AdaRound, soft
from effc.passes.bits.rounding.codecs import IntegerCodec
from effc.passes.bits.rounding.gptq import Gptq
from effc.passes.bits.rounding.methods import rounded_by as rounded_runs
from effc.passes.bits.rounding.slim_llm import SlimLlm
from effc.passes.manager import PassManager

GROUPED = "effc.dequantize_grouped.default"


def job(weight: Tensor, scheme: str, group: int, observer: str = "minmax", **options) -> Job:
    node = torch.fx.Graph().placeholder("x")
    fixed = SCHEMES[scheme][2] if scheme in SCHEMES else None
    form = Format(scheme, 4, fixed or group, False, observer)
    return Job(weight, form, Layer(node, "layer", "linear"), PassContext(), **options)


def rounded_by(method: str, given: Job):
    (run,) = rounded_runs(method, given).runs
    return run


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


def output_error(after: Program, chain: Program, name: str, data) -> float:
    """Squared error of one layer's output for what it reads in float."""
    weight = attribute(chain.forward, f"{name}.weight")
    x = torch.cat([batch["x"] for batch in data]).reshape(-1, 64)
    return float(((restored(after, name) - weight) @ x.T).square().sum())


def test_adaround_goes_up_or_down_and_loses_less(chain, data):
    options = {"bits": 3, "symmetric": False, "compensation": 0.0, "activations": "float32"}
    learned = quantized(chain, data, rounding="adaround", **options)
    plain = quantized(chain, data, rounding="nearest", **options)
    for name in ("left", "right"):
        weight = attribute(chain.forward, f"{name}.weight")
        found = restored(learned, name)
        (node,) = [n for n in learned.forward.graph.find_nodes(op="get_attr")
                   if n.target == f"{name}.weight_scale"]  # fmt: skip
        scale = attribute(learned.forward, node.target).float().repeat_interleave(32, 1)
        assert bool(((found - weight).abs() <= scale.abs() * 1.001).float().mean() > 0.97)
        errors = [output_error(one, chain, name, data) for one in (learned, plain)]
        assert errors[0] < 0.6 * errors[1]


def test_the_slope_of_adaround():
    v = np.linspace(-3, 3, 41)
    step = 1e-6
    numeric = (soft(v + step)[0] - soft(v - step)[0]) / (2 * step)
    inside = (soft(v)[0] > 0) & (soft(v)[0] < 1)
    np.testing.assert_allclose(soft(v)[1][inside], numeric[inside], atol=1e-6)
    method = AdaRound(steps=10)
    share = np.linspace(0.05, 0.95, 19)
    beta = method.last_beta + (method.first_beta - method.last_beta) * (1 - (0.7 - 0.2) / 0.8)

    def penalty(h):
        return 1 - np.abs(2 * h - 1) ** beta

    numeric = (penalty(share + step) - penalty(share - step)) / (2 * step)
    np.testing.assert_allclose(method._pull(share, 7), numeric, atol=1e-4)


def test_slim_llm_gives_salient_groups_more_bits(chain, data):
    scaled = [{"x": batch["x"] * torch.tensor([30.0] * 32 + [0.1] * 32)} for batch in data]
    after = quantized(chain, scaled, rounding="slim-llm", bits=3, compensation=0.0)
    bits = [node.args[3] for node in after.forward.graph.nodes if GROUPED in str(node.target)
            + ".default" and str(node.args[0].target).startswith("left")]  # fmt: skip
    assert bits == [4, 2]
    plain = quantized(chain, scaled, rounding="gptq", bits=3, compensation=0.0)
    assert attribute(after.forward, "left.weight_codes").shape == (48, 16)
    mixed = nearest_outputs(after, chain, scaled)
    assert mixed < nearest_outputs(plain, chain, scaled)


def nearest_outputs(after: Program, before: Program, data) -> float:
    found = [next(iter(one.run(data[0]).values())) for one in (after, before)]
    return float((found[0] - found[1]).square().sum())


def test_slim_llm_salience_and_search_by_hand():
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 12)) * draw.lognormal(0, 1, 12)
    weight, moment = draw.standard_normal((5, 12)), x.T @ x
    method = SlimLlm(2, 4, is_symmetric=False, damping=0.01)
    inverse = np.linalg.inv(moment + 0.01 * np.diag(moment).mean() * np.eye(12))
    each = weight**2 / np.diag(inverse) ** 2
    expected = [each[:, first : first + 4].mean() for first in (0, 4, 8)]
    np.testing.assert_allclose(method.salience(weight, moment), expected, rtol=1e-6)
    bits = [codec.bits for codec in method.codecs(weight, moment, x)]
    assert sum(bits) == 6
    order = np.argsort(expected)
    assert bits[order[0]] <= bits[order[1]] <= bits[order[2]]


def test_products_with_runs_of_columns(chain, data):
    scaled = [{"x": batch["x"] * torch.tensor([30.0] * 32 + [0.1] * 32)} for batch in data]
    for bits, activations, op in ((3, "int8", "linear_grouped_integer"),
                                  (2, "float32", "linear_grouped")):  # fmt: skip
        after = quantized(chain, scaled, rounding="slim-llm", bits=bits, activations=activations)
        lowered = PassManager.parse("lower-integer").run(after).program
        counts = operators(lowered)
        assert counts[f"effc.{op}.default"] > 3
        assert counts[GROUPED] == 0
        assert_same_outputs(after, lowered, data[0], tolerance=BOUND(2e-2))


def test_biases_take_up_the_mean_error(chain, data):
    shifted = [{"x": batch["x"] + 3} for batch in data]
    options = {"bits": 2, "activations": "float32", "group": 0}
    before = {}
    for corrected in (False, True):
        after = quantized(chain, shifted, correct_bias=corrected, **options)
        errors = [next(iter(after.run(batch).values())) - next(iter(chain.run(batch).values()))
                  for batch in shifted]  # fmt: skip
        before[corrected] = float(torch.cat(errors).mean((0, 1)).abs().max())
    assert before[True] < 1e-4 < before[False]
    with pytest.raises(UsageError, match="correct_bias needs data; give --calib"):
        quantized(chain, None, correct_bias=True)


@pytest.mark.parametrize("mode", ["int16", "float8", "bfloat16"])
def test_rounded_activations(chain, data, mode):
    """Beside numpy and ml_dtypes; the first layer's input, per token."""
    after = quantized(chain, data, bits=8, activations=mode)
    x = data[0]["x"].numpy()
    largest = np.abs(x).max(-1, keepdims=True)
    if mode == "int16":
        step = largest * np.float32(1 / 32767)
        expected = np.round(x / step) * step
    elif mode == "float8":
        step = largest / 448
        expected = (x / step).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * step
    else:
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    (layer, *_) = [n for n in after.forward.graph.nodes if "linear" in str(n.target)]
    seen = {}

    class Look(torch.fx.Interpreter):
        def run_node(self, n):
            seen[n] = super().run_node(n)
            return seen[n]

    Look(after.forward).run(data[0]["x"], enable_io_processing=False)
    np.testing.assert_allclose(seen[layer.args[0]].numpy(), expected, rtol=2e-5, atol=1e-6)
    assert mode in report_of(chain, data, mode).lower().replace("e4m3", "float8")


def report_of(chain, data, mode) -> str:
    step = QuantizeWeights(activations=mode)
    rows = PassManager((step,)).run(chain, PassContext(calibration=data)).rows
    return rows[0].notes["layers"]["left"]["activation"]


def test_codes_of_tables_are_not_narrowed(chain):
    after = quantized(chain, None, scheme="e4m3")
    rows = PassManager.parse("narrow-weights").run(after).rows
    assert [one["reason"] for one in rows[0].refusals] == ["its codes are looked up in a table"]
