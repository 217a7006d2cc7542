"""Allocation: limits hold, the choice is the best one, rules and bad data are answered."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from effc.ir.errors import DataError, UsageError
from effc.ir.opspec import op_name
from effc.passes.base import PassContext
from effc.passes.bits import allocate_bits
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.registry import sensitivities
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.quantize import Quantize
from effc.passes.manager import PassManager
from effc.passes.plan.model import Limit


@pytest.fixture
def data(batches):
    return batches((4, 3, 16, 16))


@pytest.fixture
def allocated(images, data):
    """Run the pass; gives the row of the report and the program."""

    def run(program=images, calibration=data, **settings):
        options = {key: settings.pop(key) for key in [*settings] if hasattr(AllocateBits, key)}
        options = {"bits": ("float", "8"), "metric": "sqnr", **options}
        ctx = PassContext(calibration=calibration, **settings)
        report = PassManager((AllocateBits(**options),)).run(program, ctx)
        return report.rows[0], report.program

    return run


def formats(row):
    return {name: note["format"] for name, note in row.notes["layers"].items()}


def weight_nbytes(program, names):
    """Bytes of codes and scales, or of the weight in float, of every layer, counted."""
    total = 0
    for target, tensor in program.weights().items():
        layer, _, leaf = target.rpartition(".")
        if layer in names and leaf in ("weight", "weight_codes", "weight_scale"):
            total += tensor.numel() * tensor.element_size()
    return total


def test_without_a_limit_all_stay_in_float(allocated, images):
    row, program = allocated()
    assert set(formats(row).values()) == {"float32"}
    assert not row.changed
    assert program.weight_nbytes == images.weight_nbytes
    assert row.notes["plan"]["totals"]["loss"] == 0


def test_only_eight_bits_is_what_quantize_makes(allocated, images, data):
    row, program = allocated(bits=("8",))
    report = PassManager((Quantize(),)).run(images, PassContext(calibration=data))
    inputs = data[0]
    torch.testing.assert_close(program.run(inputs), report.program.run(inputs), rtol=0, atol=0)
    assert row.refusals == report.rows[0].refusals


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6, 0.9])
def test_the_best_choice_within_the_limit(allocated, images, data, share, study_of_images):
    names = {layer for part in study_of_images.parts for layer in part.members}
    whole = weight_nbytes(images, names)
    rest = images.weight_nbytes - whole
    row, program = allocated(limits=(Limit("nbytes", share * whole + rest),))
    assert weight_nbytes(program, names) <= share * whole
    assert row.notes["plan"]["other_nbytes"] == rest
    assert weight_nbytes(program, names) == row.notes["plan"]["totals"]["nbytes"]
    losses = sensitivities(study_of_images, "sqnr", [Form(), Form(8, 8)])
    best = np.inf
    for picked in itertools.product((0, 1), repeat=len(losses)):
        forms = [(Form(), Form(8, 8))[at] for at in picked]
        nbytes = [form.nbytes(part.weight.shape)
                  for form, part in zip(forms, study_of_images.parts, strict=True)]  # fmt: skip
        if sum(nbytes) <= share * whole:
            found = sum(loss[at] for loss, at in zip(losses.values(), picked, strict=True))
            best = min(best, found)
    assert row.notes["plan"]["totals"]["loss"] == pytest.approx(best)


@pytest.fixture
def study_of_images(images, data):
    from effc.passes.bits.layers import Wanted, select
    from effc.passes.bits.metrics.parts import parts_of

    ctx = PassContext(calibration=data)
    return Study(images, parts_of(images, select(images, "forward", ctx, Wanted()).layers), ctx)


def test_a_limit_that_cannot_be_kept(allocated):
    row, _ = allocated(limits=(Limit("nbytes", 10, "--max-size 10B"),))
    assert set(formats(row).values()) == {"w8a8"}
    nearest = int(row.notes["plan"]["totals"]["nbytes"]) + row.notes["plan"]["other_nbytes"]
    assert row.notes["infeasible"] == (
        f"no plan has at most 10 bytes (--max-size 10B): the nearest feasible value is {nearest:,} "
        "bytes"
    )


def test_what_would_change_a_layer(allocated, images):
    row, _ = allocated(limits=(Limit("nbytes", images.weight_nbytes * 0.4),))
    rest = row.notes["plan"]["other_nbytes"]
    assert row.notes["plan"]["sizes"] == sorted(row.notes["plan"]["sizes"])
    assert row.notes["plan"]["sizes"][-1] == images.weight_nbytes
    spent = row.notes["plan"]["totals"]["nbytes"]
    lowered = [note for note in row.notes["layers"].values() if note["format"] == "w8a8"]
    assert lowered
    for note in lowered:
        assert note["runner_up"] == "float32"
        assert note["runner_up_loss"] == 0 < note["predicted_loss"]
        assert note["changes_at_nbytes"] > spent
        limit = Limit("nbytes", note["changes_at_nbytes"] + rest)
        again, _ = allocated(solver="greedy", limits=(limit,))
        assert again.notes["plan"]["totals"]["loss"] < row.notes["plan"]["totals"]["loss"]


def test_simulated_formats(allocated, images, data):
    options = {"bits": ("2", "4", "6"), "group": 8, "simulate": True, "average_bits": 4.5}
    row, program = allocated(**options)
    chosen = formats(row)
    assert len(set(chosen.values())) > 1
    count = {name: images.weights()[f"{name}.weight"].numel() for name in chosen}
    bits = {name: Form.parse(text).bits for name, text in chosen.items()}
    assert sum(bits[n] * count[n] for n in chosen) <= 4.5 * sum(count.values())
    for name, text in chosen.items():
        form = Form.parse(text)
        if form.bits < 8:
            rounded = program.weights()[f"{name}.weight_rounded"]
            expected = form.restored(images.weights()[f"{name}.weight"])
            torch.testing.assert_close(rounded, expected, rtol=0, atol=0)


def test_rules_leave_a_layer_one_format(allocated):
    rules = (("head", {"bits": "float"}), ("first", {"bits": "8"}))
    row, _ = allocated(rules=rules, limits=(Limit("nbytes", 0),))
    chosen = formats(row)
    assert chosen.pop("head") == "float32"
    assert set(chosen.values()) == {"w8a8"}
    row, _ = allocated(rules=(("head", {"bits": "8"}),))
    chosen = formats(row)
    assert chosen.pop("head") == "w8a8"
    assert set(chosen.values()) == {"float32"}


def test_excluded_layers_are_refused_by_name(allocated):
    row, _ = allocated(bits=("8",), exclude=("st*",))
    assert "stem" not in row.notes["layers"]
    reasons = [one for one in row.refusals if one["reason"] == "excluded by the user"]
    assert reasons[0]["sources"] == ["stem"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": ("x",)}, "'x' is no format; write float, 2 to 8, ternary, w4a8g32, w4a8g32z"),
        ({"bits": ("w4g8",)}, "format w4a8g8: group=8 is no multiple of 32; 0 is a row"),
        ({"rounding": "magic"}, "there is no rounding=magic of weights; there are: nearest"),
        ({"rounding": "x", "simulate": True}, "there is no rounding=x of simulated weights"),
        ({"metric": "magic"}, "unknown metric 'magic'"),
        ({"solver": "magic"}, "unknown solver 'magic'"),
        ({"exclude": ("nothing",)}, "pattern 'nothing' matches nothing"),
        (
            {"rules": (("stem", {"bits": "w3a32"}),)},
            "w3a32g32 for stem: zero points, ternary planes and activations in float go with",
        ),
    ],
)
def test_what_is_refused(allocated, options, message):
    with pytest.raises(UsageError) as raised:
        allocated(**options)
    assert message in str(raised.value)


def test_rules_that_disagree_about_a_shared_weight(allocated, words):
    rules = (("table", {"bits": "8"}), ("head", {"bits": "float"}))
    with pytest.raises(UsageError, match="rules ask for bits=8 and bits=float of table, whose"):
        allocated(words, None, rules=rules)


def test_data_that_cannot_be_used(allocated, data):
    broken = [{"x": torch.full((4, 3, 16, 16), float("nan"))}]
    for calibration, message in (([], "holds no batches"), (broken, "holds NaN")):
        with pytest.raises(DataError, match=message):
            allocated(calibration=calibration, bits=("8",))
    row, _ = allocated(calibration=[{"x": torch.zeros(1, 3, 16, 16)}], bits=("8",))
    assert np.isfinite(row.notes["plan"]["totals"]["loss"])


GROUPED = ("float", "8", "4", "w3g0", "w2z", "ternary", "w5a32")


@pytest.fixture
def texts(batches):
    return batches((4, 3, 16))


def stored_nbytes(program, name):
    """Bytes of everything stored for a layer's weight."""
    parts = (f"{name}.weight{leaf}" for leaf in ("", "_codes", "_scale", "_zero_point"))
    found = [program.weights()[part] for part in parts if part in program.weights()]
    return sum(one.numel() * one.element_size() for one in found)


@pytest.mark.parametrize("text", GROUPED)
def test_formats_are_stored_as_they_count(allocated, feed, texts, text):
    row, program = allocated(feed, texts, bits=(text,))
    layers = row.notes["layers"]
    assert {name: note["format"] for name, note in layers.items()} == dict.fromkeys(
        ("left", "right", "down"), str(AllocateBits().form(text))
    )
    for name, note in layers.items():
        assert stored_nbytes(program, name) == note["nbytes"]
        assert note.get("weight_nbytes", note["nbytes"]) == note["nbytes"]
    is_float = text == "float"
    nodes = [node for node in program.forward.graph.nodes if op_name(node).startswith("effc.deq")]
    assert bool(nodes) != is_float


def test_what_is_stored_is_what_was_predicted(allocated, feed, texts, study_of):
    _, program = allocated(feed, texts, metric="output-divergence", bits=("w4a32",))
    study = study_of(feed, calibration=texts)
    forms = {part: Form.parse("w4a32g32") for part in study.parts}
    for batch, found in zip(study.sample, study.outputs_of(forms), strict=True):
        names = [spec.name for spec in feed.signature.inputs]
        expected = program.run(dict(zip(names, batch.inputs, strict=True)))["output"]
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)


def test_a_plan_mixes_stored_formats_and_keeps_the_limit(allocated, feed, texts):
    names = ("left", "right", "down")
    whole = sum(stored_nbytes(feed, name) for name in names)
    mixed = []
    for share in (0.2, 0.3, 0.5):
        limit = Limit("nbytes", feed.weight_nbytes - (1 - share) * whole)
        row, program = allocated(feed, texts, bits=GROUPED, limits=(limit,))
        assert "infeasible" not in row.notes
        stored = sum(stored_nbytes(program, name) for name in names)
        assert stored == row.notes["plan"]["totals"]["nbytes"] <= share * whole
        mixed.append(len(set(formats(row).values())))
    assert max(mixed) > 1


@pytest.mark.parametrize("text", ["w4a8c", "4"])
def test_simulated_weights_stay_in_float(allocated, text):
    row, program = allocated(bits=(text,), simulate=True)
    assert "float32" not in formats(row).values()
    assert {one.dtype for one in program.weights().values()} == {torch.float32}


@pytest.mark.parametrize("text", ["ternary", "w4a32", "w4z"])
def test_formats_for_linear_layers_only_are_refused_by_name(allocated, text):
    row, _ = allocated(bits=(text,))
    chosen = formats(row)
    assert chosen.pop("head") != "float32"
    assert set(chosen.values()) == {"float32"}
    refused = [one for one in row.refusals if "go with weights that linear" in one["reason"]]
    assert {source for one in refused for source in one["sources"]} == set(chosen)


def test_convolutions_take_as_many_bits_per_channel(allocated):
    row, program = allocated(bits=("4",))
    chosen = formats(row)
    assert chosen.pop("head") == "w4a8g32"
    assert set(chosen.values()) == {"w4a8c"}
    stored = {name: one for name, one in program.weights().items() if name.endswith("_codes")}
    unpacked = [node for node in program.forward.graph.nodes if "unpack_signed" in str(node.target)]
    assert len(unpacked) == len(chosen) == len(stored) - 1
    assert all(one.dtype == torch.uint8 for one in stored.values())


def test_a_table_tied_to_the_head_takes_a_scale_per_row(allocated, words):
    row, _ = allocated(words, None, metric="weight-error", bits=("8", "4"),
                       limits=(Limit("nbytes", 0),))  # fmt: skip
    chosen = formats(row)
    assert chosen["table"] == "w4a8c"
    assert chosen["hidden"] == "w4a8g32"


def test_without_data_the_model_makes_some_and_it_is_said(allocated, images, data):
    row, _ = allocated(calibration=None, bits=("8",))
    assert row.notes["data"] == "there is no calibration data; in its place: normal noise"
    made = [{"x": torch.full((2, 3, 16, 16), 2.0)}]
    row, _ = allocated(calibration=None, substitute=lambda: made, metric="output-divergence")
    assert row.notes["data"].startswith(
        "there is no calibration data; in its place: data made for it"
    )
    broken = [{"x": torch.full((2, 3, 16, 16), float("nan"))}]
    row, _ = allocated(calibration=None, substitute=lambda: broken, bits=("8",))
    assert row.notes["metric"].startswith("there is no data the model can run on: errors of")
    assert row.notes["plan"]["metric"] == "weight-error"
    row, _ = allocated(calibration=None, bits=("8",), metric="weight-error")
    assert "data" not in row.notes


def test_a_changed_budget_measures_nothing_again(allocated, images, tmp_path, monkeypatch):
    small = (Limit("nbytes", images.weight_nbytes * 0.3),)
    first, _ = allocated(metric="output-divergence", limits=small, store=tmp_path)

    def never(self, forms):
        raise AssertionError("measured again")

    monkeypatch.setattr(Study, "damage", never)
    large = (Limit("nbytes", images.weight_nbytes * 0.6),)
    again, _ = allocated(metric="output-divergence", limits=large, store=tmp_path)
    before, after = (row.notes["plan"]["totals"]["loss"] for row in (first, again))
    assert after < before


def test_auto_takes_the_metric_that_orders_best(allocated, tmp_path):
    options = {"metric": "auto", "bits": ("2", "4", "8"), "group": 8, "simulate": True}
    row, _ = allocated(**options, average_bits=4.0, store=tmp_path)
    ranks = row.notes["rank_correlation"]
    best = max(ranks, key=ranks.get)
    assert row.notes["metric"] == f"{best} orders best"
    assert ranks[best] > 0.5
    assert allocated(**options, average_bits=4.0, store=tmp_path)[0].notes == row.notes


def test_planned_beats_uniform_where_layers_differ(allocated, data):
    ctx = {"bits": ("2", "4", "8"), "group": 8, "simulate": True, "average_bits": 4.0}
    found = {}
    for solver in ("ilp", "uniform", "first-last", "random"):
        row, program = allocated(metric="output-divergence", solver=solver, **ctx)
        outputs = program.run(data[0])["output"]
        found[solver] = (row.notes["plan"]["totals"]["loss"], outputs)
    assert found["ilp"][0] <= min(loss for loss, _ in found.values())
    assert isinstance(replace(AllocateBits(), solver="ilp"), allocate_bits.AllocateBits)


def test_what_is_chosen_is_rounded_as_asked(allocated, feed, texts):
    """GPTQ looks at the data; it stores the same formats in the same bytes, with other codes."""
    options = {"bits": ("w3g0",)}
    nearest, plain = allocated(feed, texts, **options)
    row, program = allocated(feed, texts, rounding="gptq", **options)
    assert formats(row) == formats(nearest)
    assert program.weight_nbytes == plain.weight_nbytes
    outputs = [one.run(texts[0])["output"] for one in (feed, plain, program)]
    errors = [float((outputs[0] - found).square().sum()) for found in outputs[1:]]
    assert errors[0] != errors[1]
    assert errors[1] < 1.5 * errors[0]


def test_refined_plans_are_measured_on_data_no_metric_saw(allocated, images, tmp_path):
    calibration = [{"x": torch.randn(64, 3, 16, 16)} for _ in range(3)]
    options = {
        "bits": ("2", "3", "4", "6"),
        "group": 8,
        "simulate": True,
        "average_bits": 3.5,
        "metric": "weight-error",
        "solver": "random",
        "calibration": calibration,
    }
    plain, _ = allocated(**options)
    row, program = allocated(**options, refine=3, store=tmp_path)
    notes = row.notes["refined"]
    assert set(notes["candidates"]) == {"random", "uniform"}
    found = min([*notes["candidates"].values(), *notes["rounds"]])
    assert notes["rounds"]
    assert found < min(notes["candidates"].values())
    expected = images.run(calibration[1])["output"]  # the second batch follows the sample
    p, q = (torch.log_softmax(one.double(), -1) for one in
            (expected, program.run(calibration[1])["output"]))  # fmt: skip
    assert float((p.exp() * (p - q)).sum(-1).mean()) == pytest.approx(found, rel=1e-3)
    assert row.notes["plan"]["totals"]["weight_bits"] <= row.notes["plan"]["limits"][0]["at_most"]
    assert "refined" not in plain.notes
    assert plain.notes["plan"]["solver"] == "random"
    again, _ = allocated(**options, refine=3, store=tmp_path)
    assert again.notes == row.notes
