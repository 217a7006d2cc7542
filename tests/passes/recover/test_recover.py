"""The pass `recover`: better than before, nothing added, resumable, honest where it fails."""

from typing import Any

import pytest
import torch
from torch import nn

from effc.ir.errors import DataError, UsageError
from effc.ir.program import Program
from effc.ir.testing import operators, traced
from effc.ir.text import fingerprint
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.recover.trainables import SETS
from effc.passes.registry import parse_pipeline

LOW = "quantize-weights{bits=2}"
STATIC = "quantize"


def divergence(original: Program, found: Program, inputs: dict[str, torch.Tensor]) -> float:
    """Mean Kullback-Leibler divergence of the outputs, by torch."""
    p, q = (one.run(inputs)["output"].log_softmax(-1) for one in (original, found))
    return float(nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def fresh(rows: int = 64) -> dict[str, torch.Tensor]:
    """Inputs nothing was trained or judged on."""
    return {"x": torch.randn(rows, 12, generator=torch.Generator().manual_seed(99))}


@pytest.mark.parametrize("parameters", [name for name in SETS if name != "head"])
@pytest.mark.parametrize(("before", "rate"), [(LOW, 0.01), (STATIC, 0.0003)])
def test_every_set_of_parameters_helps_and_adds_nothing(recovered, block, before, rate, parameters):
    compressed, result = recovered(before, f"steps=40 parameters={parameters} rate={rate}")
    notes = result.rows[-1].notes
    assert notes["loss_after"] <= notes["loss_before"]
    if before == LOW:  # 8 bits leave little to gain
        was, now = (divergence(block, one.program, fresh()) for one in (compressed, result))
        assert now < was
    shapes = {name: (one.shape, one.dtype) for name, one in result.program.weights().items()}
    assert shapes == {n: (w.shape, w.dtype) for n, w in compressed.program.weights().items()}
    assert operators(result.program) == operators(compressed.program)


def test_all_of_the_weights_in_two_bits_gain_most(recovered, block):
    compressed, result = recovered(LOW, "steps=200 parameters=full")
    before, after = (divergence(block, p.program, fresh()) for p in (compressed, result))
    assert after < before / 2


@pytest.mark.parametrize(
    "options",
    ["loss=jensen-shannon", "loss=mse", "loss=cosine", "temperature=2.0", "hidden=0.5",
     "intervention=0.5", "intervention=1.0", "answers=10", "parameters=bias|norm|head"],
)  # fmt: skip
def test_every_objective_helps(recovered, block, options):
    compressed, result = recovered(LOW, f"steps=80 {options}")
    before, after = (divergence(block, p.program, fresh()) for p in (compressed, result))
    assert after < 0.9 * before


def test_all_answers_kept_are_as_good_as_running_the_original(recovered):
    kept = recovered(LOW, "steps=10 answers=10")[1].rows[-1].notes["losses"]
    run = recovered(LOW, "steps=10")[1].rows[-1].notes["losses"]
    assert [step for step, _ in kept] == [step for step, _ in run]
    first = slice(0, 3)  # later ones grow apart: codes flip
    assert [a for _, a in kept[first]] == pytest.approx([b for _, b in run[first]], rel=0.01)


def test_kept_answers_are_read_from_disk(recovered, tmp_path):
    recovered(LOW, "steps=3 answers=4", store=tmp_path)
    assert len(list(tmp_path.glob("recover/*/answers-*.safetensors"))) == 8


def test_a_sparse_weight_stays_sparse(block, data):
    """LoRA is masked (PERP): zeros of a pruned weight are zeros afterwards."""
    pruned = block.clone()
    weight = block.weights()["ups.0.weight"].clone()
    weight[weight.abs() < weight.abs().median()] = 0
    pruned.forward.ups.get_submodule("0").weight = weight
    ctx = PassContext(calibration=data, original=block)
    steps = "recover{minutes=0 steps=40 rate=0.01 parameters=lora}"
    found = PassManager.parse(steps).run(pruned, ctx).program.weights()["ups.0.weight"]
    assert torch.equal(found == 0, weight == 0)
    assert not torch.equal(found, weight)


class Tied(nn.Module):
    """A table that is also the head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 16)
        self.inner = nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner(self.table(ids)) @ self.table.weight.T


def test_tied_weights_stay_tied():
    program = traced(Tied(), torch.zeros(2, 3, dtype=torch.int64), dynamic={"ids.0": "batch"})
    data = [{"ids": torch.randint(0, 20, (16, 3), generator=torch.Generator().manual_seed(1))}]
    damaged = program.clone()
    damaged.forward.inner.weight = program.weights()["inner.weight"] * 1.5
    ctx = PassContext(calibration=data, original=program)
    result = PassManager.parse("recover{minutes=0 steps=20}").run(damaged, ctx).program
    assert result.weight_nbytes == program.weight_nbytes
    assert not torch.equal(result.weights()["table.weight"], program.weights()["table.weight"])


def test_a_killed_training_goes_on_where_it_was(recovered, tmp_path):
    options = "steps=12 parameters=lora"
    whole = recovered(LOW, options)[1]
    calls = []

    def interrupted(stage: str, done: int, total: int) -> None:
        calls.append(stage)
        if sum(name.startswith("recover; ") for name in calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recovered(LOW, options, store=tmp_path, progress=interrupted)
    seen = []
    result = recovered(LOW, options, store=tmp_path, progress=lambda *now: seen.append(now))[1]
    assert fingerprint(result.program) == fingerprint(whole.program)
    assert sum(stage.startswith("recover; ") for stage, _, _ in seen) == 7
    again = recovered(LOW, options, store=tmp_path, progress=lambda *now: seen.append(now))[1]
    assert fingerprint(again.program) == fingerprint(whole.program)
    assert sum(stage.startswith("recover; ") for stage, _, _ in seen) == 7


def test_a_loss_that_is_no_number_rolls_back_to_the_best(recovered):
    notes = recovered(LOW, "steps=60 rate=1e30")[1].rows[-1].notes
    assert notes["rollbacks"] == 3
    assert notes["loss_after"] <= notes["loss_before"]


def test_what_does_not_help_changes_nothing(block, data):
    ctx = PassContext(calibration=data)
    report = PassManager.parse("recover{minutes=0 steps=5}").run(block, ctx)
    assert report.rows[-1].notes["best_step"] == 0
    assert fingerprint(report.program) == fingerprint(block)


def test_time_is_a_budget_too(recovered):
    notes = recovered(LOW, "minutes=0.01 patience=0")[1].rows[-1].notes
    assert 0.6 <= notes["seconds"] < 10


def test_excluded_layers_stay_as_they_are(recovered):
    first, result = recovered(LOW, "steps=10", exclude=("head",))
    before, after = (one.program.weights() for one in (first, result))
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["ups.0.weight_codes"], after["ups.0.weight_codes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("steps=1 parameters=soul", "recover: no parameters 'soul'; there are: bias, norm, head, "
                                    "full, lora, sub-block, scale-shift, step, rounding"),
        ("steps=1 parameters=lora|full", "recover: lora and full change the same weights"),
        ("steps=0", "recover: give minutes or steps, else it never ends"),
        ("steps=1 rank=0", "recover: rank=0 must be above 0"),
        ("steps=1 hidden=-1.0", "recover: hidden=-1 is negative"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(recovered, options, message):
    with pytest.raises(UsageError) as error:
        recovered(LOW, options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration": None}, "recover needs calibration data; give it with --calib"),
        ({"calibration": [{"x": torch.full((2, 12), torch.inf)}]},
         "calibration batch 1: input x holds NaN or infinite values"),
        ({"calibration": [{"x": torch.full((2, 12), 1e38)}]},
         "recover: the loss on held-out data is no number before training"),
    ],
)  # fmt: skip
def test_data_that_is_of_no_use(recovered, settings: dict[str, Any], message):
    with pytest.raises(DataError) as error:
        recovered(LOW, "steps=1", **settings)
    assert str(error.value) == message


def test_nothing_to_train_is_a_refusal(data):
    """A program without weights."""
    program = traced(nn.Softmax(-1), torch.ones(2, 12), dynamic={"input.0": "batch"})
    batches = [{"input": one["x"]} for one in data]
    report = PassManager.parse("recover{parameters=rounding}").run(
        program, PassContext(calibration=batches)
    )
    (refusal,) = report.rows[-1].refusals
    assert refusal["reason"] == "nothing to train of: rounding"


def test_outside_a_pipeline_there_is_no_original(block, data):
    (step,) = parse_pipeline("recover")
    with pytest.raises(UsageError, match="recover needs the program before compression"):
        step.run(block.clone(), PassContext(calibration=data))
