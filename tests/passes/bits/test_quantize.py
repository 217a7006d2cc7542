"""The pass `quantize`: forms of the graph, error bounds, calibration, notes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from effc.ir.errors import DataError, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.ir.testing import operators, traced
from effc.passes.base import PassContext
from effc.passes.bits.quantize import Quantize
from effc.passes.calibrate import collect
from effc.passes.manager import PassManager
from effc.passes.registry import parse_pipeline, pass_text

QUANTIZE, DEQUANTIZE = "effc.quantize.default", "effc.dequantize.default"
DYNAMIC = "effc.quantize_dynamic.default"


class Feed(nn.Module):
    """Two linears read one value, which is added to the result, too."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(width)
        self.left = nn.Linear(width, 24)
        self.right = nn.Linear(width, 24, bias=False)
        self.down = nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(functional.gelu(self.left(x)) * self.right(x))


class Images(nn.Module):
    """Stem, pooling, a residual block whose shortcut is a convolution, a depthwise one, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.first = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x).relu())
        x = (self.shortcut(x) + self.second(self.first(x).relu())).relu()
        x = (x + self.depthwise(x)).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture
def feed() -> Program:
    return traced(Feed(), torch.randn(2, 3, 16), dynamic={"x.0": "batch", "x.1": "tokens"})


@pytest.fixture
def images() -> Program:
    return traced(Images(), torch.randn(2, 3, 16, 16), dynamic={"x.0": "batch"})


def batches(shape: tuple[int, ...], count: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(shape, generator=generator)} for _ in range(count)]


def calls(program: Program, name: str) -> list[fx.Node]:
    return [node for node in program.forward.graph.nodes if op_name(node) == name]


def layer(program: Program, name: str) -> fx.Node:
    kinds = ("aten.linear.default", "aten.conv2d.default")
    (found,) = [n for n in program.forward.graph.nodes if label(n) == name and op_name(n) in kinds]
    return found


def error_db(before: Program, after: Program, inputs: dict[str, Tensor]) -> float:
    expected, found = before.run(inputs)["output"], after.run(inputs)["output"]
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


def run(program: Program, data: Any = None, **options: Any) -> tuple[Program, dict[str, Any]]:
    report = PassManager((Quantize(**options),)).run(program, PassContext(calibration=data))
    return report.program, report.rows[0].notes["layers"]


def test_static_form(feed: Program) -> None:
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


def test_layers_share_the_codes_of_a_value_and_others_go_on_reading_floats(feed: Program) -> None:
    after, _ = run(feed, batches((2, 5, 16)), activations="static")
    assert operators(after)[QUANTIZE] == 2
    assert layer(after, "left").args[0] is layer(after, "right").args[0]
    (add,) = calls(after, "aten.add.Tensor")
    assert "aten.layer_norm.default" in [op_name(node) for node in add.all_input_nodes]


def test_dynamic_form(feed: Program, images: Program) -> None:
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


def test_static_error_of_a_value_is_at_most_half_a_step(feed: Program) -> None:
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
def test_outputs_stay_close(feed: Program, images: Program, observer: str) -> None:
    for program, shape in ((feed, (2, 5, 16)), (images, (2, 3, 16, 16))):
        data = batches(shape)
        after, _ = run(program, data, activations="static", observer=observer, percentile=99.9)
        assert error_db(program, after, data[0]) > 25
        after, _ = run(program)
        assert error_db(program, after, data[0]) > 32


def test_convolutional_net_keeps_codes_between_layers(images: Program) -> None:
    after, _ = run(images, batches((2, 3, 16, 16)), activations="static")
    (pool,) = calls(after, "aten.max_pool2d.default")
    (before,), (behind,) = pool.args[:1], pool.users
    assert op_name(before) == DEQUANTIZE
    assert op_name(behind) == QUANTIZE
    assert before.args[1:] == behind.args[1:3]
    shortcut, (size,) = layer(after, "shortcut"), calls(after, "aten.sym_size.int") or [None]
    assert [op_name(user) for user in shortcut.users] == [QUANTIZE]
    assert size is None or size.args[0].op == "placeholder"
    first, second = calls(after, "aten.add.Tensor")
    assert [op_name(one) for one in first.args] == [DEQUANTIZE, "aten.conv2d.default"]
    assert [op_name(one) for one in second.args] == [DEQUANTIZE, "aten.conv2d.default"]
    assert second.args[0] is layer(after, "depthwise").args[0]


def test_residual_additions_can_stay_in_float(images: Program) -> None:
    data = batches((2, 3, 16, 16))
    after, _ = run(images, data, activations="static", residual="float")
    first, second = calls(after, "aten.add.Tensor")
    assert [op_name(one) for one in first.args] == ["aten.conv2d.default"] * 2
    assert [op_name(one) for one in second.args] == ["aten.relu.default", "aten.conv2d.default"]
    codes, _ = run(images, data, activations="static", residual="int8")
    assert operators(codes)[QUANTIZE] == operators(after)[QUANTIZE] + 1


def test_residual_auto_needs_a_good_prediction(images: Program) -> None:
    data = batches((2, 3, 16, 16))
    for least, expected in ((20.0, [QUANTIZE]), (80.0, ["aten.add.Tensor"])):
        after, _ = run(images, data, activations="static", static_db=least)
        assert [op_name(user) for user in layer(after, "shortcut").users] == expected


class Outliers(nn.Module):
    """One token in fifteen becomes a hundred times as large, between two linears."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.calm = nn.Linear(16, 16)
        self.wild = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.calm(x)
        return self.wild(y * (1 + 100.0 * (x[..., :1] > 1.5)))


def test_auto_goes_dynamic_where_one_scale_is_too_coarse() -> None:
    program = traced(Outliers(), torch.randn(2, 9, 16), dynamic={"x.0": "batch"})
    data = batches((8, 9, 16))
    after, notes = run(program, data)
    assert notes["calm"]["activation"].startswith("static uint8")
    assert notes["calm"]["sqnr_db"] > 32
    assert notes["wild"]["activation"] == "dynamic uint8 per token"
    assert notes["wild"]["sqnr_db"] > notes["wild"]["static_sqnr_db"]
    assert operators(after)[QUANTIZE] == operators(after)[DYNAMIC] == 1
    static, _ = run(program, data, activations="static")
    calm = {"x": torch.randn(8, 9, 16, generator=torch.Generator().manual_seed(5)).clamp(max=1)}
    assert error_db(program, after, calm) > 35
    assert error_db(program, static, calm) < 15


def test_predicted_ratios_are_those_measured(feed: Program) -> None:
    data = batches((4, 50, 16))
    _, notes = run(feed, data, activations="static", observer="minmax")
    with torch.no_grad():
        rows = torch.cat([functional.layer_norm(b["x"], (16,)).reshape(-1, 16) for b in data])
    low, high = float(rows.min()), float(rows.max())
    step = (high - low) / 255
    error = (torch.round(rows / step) * step - rows).square().mean()
    typical = rows.double().square().mean(1).log().mean().exp()
    measured = 10 * np.log10(float(typical / error))
    assert notes["left"]["sqnr_db"] == pytest.approx(measured, abs=0.15)


def test_notes_can_be_written_as_json(images: Program) -> None:
    _, notes = run(images, batches((2, 3, 16, 16)))
    again = json.loads(json.dumps(notes, allow_nan=False))
    assert list(again) == ["stem", "first", "second", "shortcut", "depthwise", "head"] or set(
        again
    ) == {"stem", "first", "second", "shortcut", "depthwise", "head"}
    assert again["stem"]["weight"] == "int8 per channel"
    assert again["stem"]["weight_sqnr_db"] > 40


def test_a_layer_used_twice_has_two_notes() -> None:
    once = nn.Linear(8, 8)
    program = traced(nn.Sequential(once, nn.ReLU(), once), torch.ones(2, 8))
    after, notes = run(program)
    assert sorted(notes) == ["0", "0#2"] or len(notes) == 2
    assert len(calls(after, DEQUANTIZE)) == 4
    assert len([w for w in after.weights() if w.endswith("_codes")]) == 1


def test_weights_shrink_to_a_quarter(images: Program) -> None:
    program = traced(nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256)), torch.ones(2, 256))
    after, _ = run(program)
    assert after.weight_nbytes < 0.27 * program.weight_nbytes


def test_the_second_compile_reads_the_statistics(
    feed: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    original = collect.Collection._measure

    def counted(self: collect.Collection, number: int, batch: Any) -> Any:
        ran.append(number)
        return original(self, number, batch)

    monkeypatch.setattr(collect.Collection, "_measure", counted)
    ctx = PassContext(calibration=batches((2, 5, 16)), store=tmp_path)
    for observer in ("minmax", "mse"):
        PassManager((Quantize(observer=observer),)).run(feed, ctx)
    assert ran == [1, 2, 3]


def test_static_needs_calibration_data(feed: Program) -> None:
    with pytest.raises(UsageError) as caught:
        run(feed, activations="static")
    text = "activations=static needs calibration data for the method forward"
    assert str(caught.value) == text


def test_bad_calibration_data_is_an_error(feed: Program) -> None:
    with pytest.raises(DataError, match="calibration data holds no batches"):
        run(feed, [])


def test_dynamic_reads_no_data(feed: Program) -> None:
    after, _ = run(feed, [], activations="dynamic")
    assert operators(after)[DYNAMIC] == 2


def test_methods_without_calibration_are_dynamic_and_share_codes(feed: Program) -> None:
    other = feed.clone()
    feed.methods["decode"], feed.signatures["decode"] = other.forward, feed.signature
    feed.examples["decode"] = ()
    after, _ = run(feed, batches((2, 5, 16)))
    found = [attribute(module, "left.weight_codes") for module in after.methods.values()]
    assert found[0].data_ptr() == found[1].data_ptr()
    assert operators(after, "decode")[DYNAMIC] == 2


def test_text_form() -> None:
    text = "quantize{activations=static observer=percentile percentile=99.9 embeddings=false}"
    (found,) = parse_pipeline(text)
    assert found == Quantize(
        activations="static", observer="percentile", percentile=99.9, embeddings=False
    )
    assert pass_text(found) == text
    with pytest.raises(UsageError, match="quantize: scheme=w4a4"):
        parse_pipeline("quantize{scheme=w4a4}")
