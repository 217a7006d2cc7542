"""Data, functions, weights and rules allocation cannot use: errors or refusals that say so."""

import numpy as np
import pytest
import torch

from effc.ir.errors import DataError, UsageError
from effc.passes.base import PassContext
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.bits.metrics.outputs import TaskDrop
from effc.passes.manager import PassManager
from effc.passes.plan.model import Limit

STEP = AllocateBits(bits=("float", "8", "4"))
SHAPE = (4, 3, 16)


@pytest.fixture
def allocated(feed, batches):
    """Run the pass within half of the bytes; gives the notes and refusals."""

    def run(program=feed, calibration=None, step=STEP, **settings):
        data = batches(SHAPE) if calibration is None else calibration
        limit = Limit("nbytes", 0.5 * program.weight_nbytes)
        ctx = PassContext(calibration=data, limits=(limit,), **settings)
        row = PassManager((step,)).run(program, ctx).rows[0]
        return row.notes, row.refusals

    return run


def changed(program, **weights):
    """The program with some weights multiplied."""
    copy = program.clone()
    for name, factor in weights.items():
        module = copy.forward.get_submodule(name)
        weight = module.weight.detach() * factor
        del module.weight
        module.register_buffer("weight", weight)
    return copy


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "calibration data holds no batches"),
        ([{"x": torch.full(SHAPE, float("nan"))}], "calibration batch 1.*NaN"),
        ([{"x": torch.full(SHAPE, float("inf"))}], "calibration batch 1.*infinite"),
        ([{"y": torch.ones(SHAPE)}], "calibration batch 1: .*"),
        ([{"x": torch.ones(4, 3, 15)}], "calibration batch 1: .*"),
        ([{"x": torch.ones(SHAPE, dtype=torch.int64)}], "calibration batch 1: .*"),
        ([torch.ones(SHAPE)], "calibration batch 1 is a Tensor, expected a dict by input name"),
        (iter([{"x": torch.ones(SHAPE)}]), "can be read only once"),
    ],
)
def test_data_that_cannot_be_used(allocated, data, message):
    with pytest.raises(DataError, match=message):
        allocated(calibration=data)


@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.parametrize("rows", [1, 4])
def test_constant_data_and_a_single_sample_give_a_plan(allocated, value, rows):
    notes, _ = allocated(calibration=[{"x": torch.full((rows, 3, 16), value)}])
    assert np.isfinite(notes["plan"]["totals"]["loss"])
    assert notes["plan"]["totals"]["nbytes"] <= notes["plan"]["limits"][0]["at_most"]


def test_labels_of_calibration_data_do_not_matter(allocated, batches):
    data = batches(SHAPE)
    plain, _ = allocated(calibration=data)
    mislabelled, _ = allocated(calibration=[(one, np.arange(99)) for one in data])
    assert mislabelled["plan"] == plain["plan"]


@pytest.mark.parametrize("factor", [0.0, 1e15, 1e-40])
def test_layers_of_zeros_and_of_enormous_weights_give_a_plan(allocated, feed, factor):
    notes, _ = allocated(program=changed(feed, left=factor))
    assert np.isfinite(notes["plan"]["totals"]["loss"])
    assert set(notes["layers"]) == {"left", "right", "down"}


def test_an_evaluation_that_fails_loses_nothing_that_was_measured(allocated, tmp_path, monkeypatch):
    asked = []

    def evaluate(program):
        asked.append(1)
        if len(asked) == 4:
            raise ZeroDivisionError("division by zero")
        return 1.0

    step = AllocateBits(metric="task-drop", bits=("float", "8", "4"))
    with pytest.raises(DataError, match="the evaluation failed: ZeroDivisionError: division by"):
        allocated(step=step, evaluate=evaluate, store=tmp_path)
    measured = []
    original = TaskDrop.losses

    def counted(self, study, parts, forms):
        measured.extend(part.name for part in parts)
        return original(self, study, parts, forms)

    monkeypatch.setattr(TaskDrop, "losses", counted)
    allocated(step=step, evaluate=lambda program: 1.0, store=tmp_path)
    assert measured == ["right", "down"]  # not the first again
    with pytest.raises(DataError, match="the evaluation gives NaN, not a number"):
        allocated(step=step, evaluate=lambda program: float("nan"))
    with pytest.raises(UsageError, match="task-drop needs evaluation data; give it with --eval"):
        allocated(step=step)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": (("nothing", {"bits": "8"}),)}, "pattern 'nothing' matches nothing; layers are"),
        ({"exclude": ("*.x",)}, r"pattern '\*.x' matches nothing; layers are"),
        ({"rules": (("left", {"bits": "9"}),)}, "'9' is no format; write float, 2 to 8"),
        ({"rules": (("left", {"bits": "w4g7"}),)}, "format w4a8g7: group=7 is no multiple of 32"),
    ],
)
def test_rules_that_mean_nothing(allocated, settings, message):
    with pytest.raises(UsageError, match=message):
        allocated(**settings)


def test_of_rules_for_one_layer_the_later_wins_and_exclusion_before_all(allocated):
    rules = (("left", {"bits": "4"}), ("*", {"bits": "8"}), ("down", {"bits": "float"}))
    notes, refusals = allocated(rules=rules, exclude=("right",))
    formats = {name: note["format"] for name, note in notes["layers"].items()}
    assert formats == {"left": "w8a8", "down": "float32"}
    (refusal,) = [one for one in refusals if one["reason"] == "excluded by the user"]
    assert refusal["sources"] == ["right"]


def test_limits_no_plan_keeps_are_named(allocated):
    step = AllocateBits(bits=("float", "8"), average_bits=4.0)
    notes, _ = allocated(step=step)
    assert notes["infeasible"].startswith(
        "no plan has at most 4,608 bits of weights (average_bits=4): the nearest feasible value is"
    )


def test_a_sample_the_model_fails_on_is_no_substitute(feed):
    broken = [{"x": torch.full(SHAPE, float("inf"))}]
    ctx = PassContext(substitute=lambda: broken)
    row = PassManager((STEP,)).run(feed, ctx).rows[0]
    assert "data" not in row.notes
    assert row.notes["metric"].startswith("there is no data the model can run on: errors of")
