"""The pass `quantize`: forms of the graph, error bounds, notes."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.testing import operators, traced
from effc.passes.bits.quantize import Quantize
from effc.passes.registry import parse_pipeline, pass_text

QUANTIZE, DEQUANTIZE = "effc.quantize.default", "effc.dequantize.default"
DYNAMIC = "effc.quantize_dynamic.default"


def test_static_form(feed: Program, batches: Any, run: Any, layer: Any) -> None:
    after, notes = run(feed, batches((2, 5, 16)), activations="static")
    left = layer(after, "left")
    restored, weight = left.args[:2]
    codes, scale, zero_point = restored.args
    assert op_name(restored) == DEQUANTIZE
    assert op_name(codes) == QUANTIZE
    assert codes.args[1:] == (scale, zero_point, 0, 255, torch.uint8)
    assert (scale.target, zero_point.target) == ("norm_scale", "norm_zero_point")
    kinds = [
        (attribute(after.forward, n.target).dtype, n.meta["val"].shape) for n in codes.args[1:3]
    ]
    assert kinds == [(torch.float32, ()), (torch.int32, ())]
    assert op_name(weight) == DEQUANTIZE
    assert weight.args[2] is None
    assert [n.target for n in weight.args[:2]] == ["left.weight_codes", "left.weight_scale"]
    assert notes["left"]["activation"].startswith("static uint8 scale=")


def test_layers_share_the_codes_of_a_value_and_others_go_on_reading_floats(
    feed: Program, batches: Any, run: Any, layer: Any, calls: Any
) -> None:
    after, _ = run(feed, batches((2, 5, 16)), activations="static")
    assert operators(after)[QUANTIZE] == 2
    assert layer(after, "left").args[0] is layer(after, "right").args[0]
    (add,) = calls(after, "aten.add.Tensor")
    assert "aten.layer_norm.default" in [op_name(node) for node in add.all_input_nodes]


def test_dynamic_form(feed: Program, images: Program, run: Any, layer: Any) -> None:
    after, notes = run(feed)
    codes = layer(after, "left").args[0].args[0].args[0]
    assert op_name(codes) == DYNAMIC
    assert codes.args[1:] == ([-1], 0, 255, torch.uint8)
    assert [n.args[1] for n in layer(after, "left").args[0].args] == [0, 1, 2]
    assert operators(after)[DYNAMIC] == 2
    assert notes["down"]["activation"] == "dynamic uint8 per token"
    after, notes = run(images)
    assert layer(after, "depthwise").args[0].args[0].args[0].args[1] == [1, 2, 3]
    assert layer(after, "head").args[0].args[0].args[0].args[1] == [-1]
    assert notes["stem"]["activation"] == "dynamic uint8 per image"


def test_static_error_of_a_value_is_at_most_half_a_step(
    feed: Program, batches: Any, run: Any, calls: Any
) -> None:
    data = batches((2, 5, 16))
    after, _ = run(feed, data, activations="static", observer="minmax")
    names = {node.name for node in after.forward.graph.nodes}
    assert "layer_norm" in names
    seen: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            seen[n.name] = super().run_node(n)
            return seen[n.name]

    for batch in data:
        Recorder(after.forward).run(batch["x"])
        for codes in calls(after, QUANTIZE):
            value, (restored,) = seen[codes.args[0].name], codes.users
            step, zero_point = (float(seen[node.name]) for node in codes.args[1:3])
            inside = value.clamp(-zero_point * step, (255 - zero_point) * step)
            error = float((seen[restored.name] - inside).abs().max())
            assert 0 < error <= 0.501 * step
            assert float((value - inside).abs().max()) <= 2 * step


@pytest.mark.parametrize("observer", ["minmax", "mse", "entropy", "percentile"])
def test_outputs_stay_close(
    feed: Program, images: Program, observer: str, batches: Any, run: Any, error_db: Any
) -> None:
    for program, shape in ((feed, (2, 5, 16)), (images, (2, 3, 16, 16))):
        data = batches(shape)
        after, _ = run(program, data, activations="static", observer=observer, percentile=99.9)
        assert error_db(program, after, data[0]) > 25
        after, _ = run(program)
        assert error_db(program, after, data[0]) > 32


def test_notes_can_be_written_as_json(images: Program, batches: Any, run: Any) -> None:
    _, notes = run(images, batches((2, 3, 16, 16)))
    again = json.loads(json.dumps(notes, allow_nan=False))
    assert set(again) == {"stem", "first", "second", "shortcut", "depthwise", "head"}
    assert again["stem"]["weight"] == "int8 per channel"
    assert again["stem"]["weight_sqnr_db"] > 40


def test_a_layer_used_twice_has_two_notes(run: Any, calls: Any) -> None:
    once = nn.Linear(8, 8)
    program = traced(nn.Sequential(once, nn.ReLU(), once), torch.ones(2, 8))
    after, notes = run(program)
    assert len(notes) == 2
    assert len(calls(after, DEQUANTIZE)) == 4
    assert len([w for w in after.weights() if w.endswith("_codes")]) == 1


def test_weights_shrink_to_a_quarter(images: Program, run: Any) -> None:
    program = traced(nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256)), torch.ones(2, 256))
    after, _ = run(program)
    assert after.weight_nbytes < 0.27 * program.weight_nbytes


def test_text_form() -> None:
    text = "quantize{activations=static observer=percentile percentile=99.9 embeddings=false}"
    (found,) = parse_pipeline(text)
    assert found == Quantize(
        activations="static", observer="percentile", percentile=99.9, embeddings=False
    )
    assert pass_text(found) == text
    with pytest.raises(UsageError, match="quantize: scheme=w4a4"):
        parse_pipeline("quantize{scheme=w4a4}")
