"""The pass `quantize-weights`: error bounds, size, rules, refusals, what it writes."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from effc.ir.encoding import packed_nbytes, unpack_codes
from effc.ir.errors import ModelError, UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.program import Program, attribute
from effc.ir.testing import EXACT, assert_same_outputs, operators, traced
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.bits.grouped import Format, Grouped, Job, nearest
from effc.passes.bits.layers import Layer
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.bits.ternary import ternary
from effc.passes.manager import PassManager
from effc.passes.registry import parse_pipeline, pass_text

GROUPED = "effc.dequantize_grouped.default"
SEEDS = st.integers(0, 999)


def job(weight: Tensor, form: Format) -> Job:
    node = torch.fx.Graph().placeholder("x")
    return Job(weight, form, Layer(node, "layer", "linear"), PassContext())


def normal(seed: int, rows: int, features: int) -> Tensor:
    drawn = np.random.default_rng(seed).standard_normal((rows, features))
    drawn[0] = 0
    return torch.from_numpy(drawn.astype(np.float32))


def steps_of(found: Grouped, weight: Tensor) -> Tensor:
    """The magnitude of the step of every element."""
    steps = found.scale.float().abs().repeat_interleave(found.group, -1)
    return steps[..., : weight.shape[1]]


FORMATS = (st.integers(2, 8), st.sampled_from([0, 32, 64]), st.booleans())


@given(SEEDS, *FORMATS, st.integers(1, 100))
def test_error_of_minmax_is_at_most_half_a_step(seed, bits, group, symmetric, features):
    weight = normal(seed, 3, features)
    found = nearest(job(weight, Format("int", bits, group, symmetric, "minmax")))
    error = (found.restored() - weight).abs()
    allowed = 0.5 if symmetric else 1.0  # a zero point is rounded, too
    rounded_scale = 2.0**-8 * 2**bits  # what bfloat16 takes off the end of the range, in steps
    assert bool((error <= (allowed + rounded_scale / 2 + 1e-3) * steps_of(found, weight)).all())
    assert float(found.restored()[0].abs().max()) == 0


@given(SEEDS, *FORMATS, st.integers(2, 100))
def test_codes_are_the_nearest(seed, bits, group, symmetric, features):
    """Of all codes in numpy, given the scales and zero points that were chosen."""
    weight = normal(seed, 3, features)
    found = nearest(job(weight, Format("int", bits, group, symmetric, "mse")))
    codes = unpack_codes(found.codes, bits, features).numpy()
    scale = found.scale.float().numpy()
    zeros = np.full(scale.shape, 1 << (bits - 1))
    if not symmetric:
        zeros = unpack_codes(found.zero_point, bits, scale.shape[1]).numpy().astype(int)
    place = np.arange(features) // found.group
    every = (np.arange(1 << bits) - zeros[:, place, None]) * scale[:, place, None]
    errors = np.abs(every - weight.numpy()[..., None])
    mine = np.take_along_axis(errors, codes[..., None].astype(int), -1)[..., 0]
    assert (mine <= errors.min(-1) + 1e-6).all()


@given(SEEDS, *FORMATS)
def test_the_range_of_least_error_is_no_worse(seed, bits, group, symmetric):
    weight = normal(seed, 4, 80)
    errors = [
        (nearest(job(weight, Format("int", bits, group, symmetric, how))).restored() - weight)
        .double().square().sum()
        for how in ("mse", "minmax")
    ]  # fmt: skip
    assert errors[0] <= errors[1] * (1 + 1e-6)


@given(SEEDS, st.sampled_from([0, 32]), st.integers(1, 70))
def test_ternary_planes_are_the_best_for_their_scales(seed, group, features):
    weight = normal(seed, 3, features)
    found = ternary(job(weight, Format("ternary", 2, group, True, "mse")))
    codes = unpack_codes(found.codes, 2, features).numpy().astype(int) - 2
    assert set(np.unique(codes)) <= {-1, 0, 1}
    first, second = (
        one.repeat(found.group, -1)[:, :features] for one in found.scale.float().numpy()
    )
    errors = np.stack([
        np.abs(weight.numpy() - first * left - second * right)
        for left in (-1, 0, 1) for right in (-1, 0, 1)
    ])  # fmt: skip
    mine = np.abs(weight.numpy() - first * codes[0] - second * codes[1])
    np.testing.assert_allclose(mine, errors.min(0), atol=1e-6)


def test_ternary_planes_find_what_is_made_of_them():
    made = np.random.default_rng(0)
    planes = made.integers(-1, 2, (2, 4, 64))
    weight = torch.from_numpy((planes[0] * 2.0 + planes[1] * 0.5).astype(np.float32))
    found = ternary(job(weight, Format("ternary", 2, 32, True, "mse")))
    np.testing.assert_allclose(found.restored().numpy(), weight.numpy(), atol=1e-5)


def test_ternary_planes_beat_two_bits():
    weight = normal(0, 64, 256)
    planes = ternary(job(weight, Format("ternary", 2, 128, True, "mse")))
    codes = nearest(job(weight, Format("int", 2, 128, True, "mse")))
    assert planes.sqnr_db(weight) > codes.sqnr_db(weight) + 5


@pytest.mark.parametrize(
    ("options", "bits_per_weight"),
    [({}, 4.5), ({"symmetric": False}, 4.625), ({"bits": 3, "group": 128}, 3.125),
     ({"bits": 8, "group": 0}, 8 + 16 / 256), ({"scheme": "ternary", "group": 128}, 4.25)],
)  # fmt: skip
def test_size_is_what_is_stored(options, bits_per_weight):
    program = traced(nn.Linear(256, 512, bias=False), torch.ones(2, 256))
    report = PassManager((QuantizeWeights(**options),)).run(program)
    nbytes = 256 * 512 * bits_per_weight / 8
    assert report.program.weight_nbytes == nbytes
    assert report.rows[0].notes["layers"]["linear"]["weight_nbytes"] == nbytes


def quantized(program: Program, ctx: PassContext | None = None, **options: Any) -> Any:
    return PassManager((QuantizeWeights(**options),)).run(program, ctx or PassContext())


def test_outputs_stay_close(feed: Program, error_db: Any, batches: Any) -> None:
    data = batches((2, 5, 16))[0]
    found = {}
    for activations in ("int8", "float32"):
        for bits in (2, 4, 8):
            after = quantized(feed, bits=bits, activations=activations).program
            found[bits, activations] = error_db(feed, after, data)
    assert found[8, "float32"] > found[4, "float32"] + 15 > found[2, "float32"] + 20
    assert found[4, "int8"] > found[4, "float32"] - 1
    assert found[8, "int8"] > 35


def test_a_saved_program_is_the_same(feed: Program, tmp_path: Any) -> None:
    for options in ({"symmetric": False}, {"scheme": "ternary"}):
        after = quantized(feed, **options).program
        path = tmp_path / "model.pt2"
        save_program(after, path)
        again = open_model(str(path))
        assert again.weight_nbytes == after.weight_nbytes
        assert_same_outputs(after, again, tolerance=EXACT)


def test_rules(feed: Program) -> None:
    rules = (("left", {"bits": "8"}), ("right", {"scheme": "ternary", "group": "0"}),
             ("down", {"symmetric": "false"}))  # fmt: skip
    notes = quantized(feed, PassContext(rules=rules)).rows[0].notes["layers"]
    assert {name: note["weight"] for name, note in notes.items()} == {
        "left": "int8 per group 32, symmetric",
        "right": "two ternary planes per row",
        "down": "int4 per group 32, asymmetric",
    }
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"bits": "9"}, "layer left: bits=9; there are 2 to 8"),
        ({"group": "48"}, "layer left: group=48 is no multiple of 32; 0 is a row"),
        ({"bits": "few"}, "layer left: quantize-weights has no bits=few"),
        ({"symmetric": "1"}, "layer left: quantize-weights has no symmetric=1"),
    ],
)
def test_rules_that_ask_for_what_there_is_none_of(feed: Program, rule: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        quantized(feed, PassContext(rules=(("left", rule),)))
    assert str(caught.value) == message


def test_layers_that_stay_in_float(feed: Program, images: Program) -> None:
    ctx = PassContext(exclude=("left",), kept=("down",), rules=(("right", {"bits": "float"}),))
    report = quantized(feed, ctx)
    reasons = {refusal["reason"] for refusal in report.rows[0].refusals}
    assert reasons == {
        "excluded by the user", "kept in float for the quality budget", "a rule keeps it in float"
    }  # fmt: skip
    assert GROUPED not in operators(report.program)
    after = quantized(images).program
    assert operators(after)[GROUPED] == 1


def test_codes_are_shared(feed: Program) -> None:
    once = nn.Linear(32, 32)
    program = traced(nn.Sequential(once, nn.ReLU(), once), torch.ones(2, 32))
    after = quantized(program).program
    assert len([name for name in after.weights() if name.endswith("_codes")]) == 1
    counts = operators(quantized(feed).program)
    assert counts["effc.quantize_symmetric.default"] == 2
    assert counts[GROUPED] == 3


def test_quantize_leaves_low_bit_weights_alone(feed: Program) -> None:
    steps = PassManager((QuantizeWeights(bits=3), *parse_pipeline("quantize,bfloat16")))
    ctx = PassContext(exclude=("down",), rules=(("left", {"bits": "3"}),))
    report = steps.run(feed, ctx)
    assert operators(report.program)[GROUPED] == 2
    reasons = {refusal["reason"] for refusal in report.rows[1].refusals}
    assert reasons == {"its weight is quantized already", "excluded by the user"}


def test_weights_that_are_no_numbers() -> None:
    linear = nn.Linear(32, 4)
    with torch.no_grad():
        linear.weight[1, 2] = torch.nan
    with pytest.raises(ModelError, match="weight weight of linear holds NaN or infinite values"):
        quantized(traced(linear, torch.ones(1, 32)))


def test_names_of_what_is_stored(feed: Program) -> None:
    after = quantized(feed, symmetric=False).program
    codes = attribute(after.forward, "left.weight_codes")
    assert codes.shape == (24, packed_nbytes(16, 4))
    assert attribute(after.forward, "left.weight_scale").dtype == torch.bfloat16
    assert attribute(after.forward, "left.weight_zero_point").shape == (24, 1)


def test_text_form() -> None:
    text = "quantize-weights{bits=3 group=128 symmetric=false activations=float32}"
    (found,) = parse_pipeline(text)
    assert found == QuantizeWeights(3, 128, False, activations="float32")
    assert pass_text(found) == text
    with pytest.raises(UsageError, match="group=48 is no multiple of 32; 0 is a row"):
        quantized(traced(nn.Linear(64, 4), torch.ones(1, 64)), group=48)
