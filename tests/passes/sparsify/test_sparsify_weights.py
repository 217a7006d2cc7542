"""`sparsify-weights`: patterns, methods against numpy written another way, refusals, errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effc.ir.errors import ModelError, UsageError
from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import Outcome, PassContext
from effc.passes.calibrate.statistics import statistics_of
from effc.passes.calibrate.windows import Window
from effc.passes.manager import PassManager
from effc.passes.sparsify.dsnot import CYCLES, ENOUGH, refined
from effc.passes.sparsify.job import Job, Reading, lost
from effc.passes.sparsify.methods import FUNCTIONS, METHODS, wanda
from effc.passes.sparsify.obert import DAMPING, obert
from effc.passes.sparsify.patterns import Pattern
from effc.passes.sparsify.ratios import REACH, SPREADS
from effc.passes.sparsify.sparsify_weights import SparsifyWeights

Array = NDArray[np.float64]


class Net(nn.Module):
    """A convolution, linears, a depthwise convolution, a table tied to the last linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.table = nn.Embedding(12, 16)
        self.up.weight.data[:4] *= 20

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        x = self.deep(self.stem(x).relu()).mean((2, 3)) + self.table(ids)
        return nn.functional.linear(x + self.down(self.up(x).relu()), self.table.weight)


@pytest.fixture(scope="module")
def program() -> Program:
    inputs = torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.int64)
    return traced(Net(), *inputs, dynamic={"x.0": "batch", "ids.0": "batch"})


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(16, 3, 6, 6, generator=generator),
         "ids": torch.randint(0, 12, (16,), generator=generator)}
        for _ in range(4)
    ]  # fmt: skip


def sparse(
    program: Program, ctx: PassContext | None = None, **options: Any
) -> tuple[dict[str, Tensor], Outcome]:
    copy = program.clone()
    context = ctx or PassContext(calibration=batches())
    outcome = SparsifyWeights(**options).run(copy, context)
    return copy.weights(), outcome


def job(
    rows: int = 24, columns: int = 40, pattern: str = "unstructured", ratio: float = 0.5
) -> Job:
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((300, columns)) @ rng.standard_normal((columns, columns))
    inputs = inputs + rng.standard_normal(columns)
    reading = Reading(inputs.T @ inputs, inputs.mean(0), len(inputs))
    slopes = rng.standard_normal((rows, -(-columns // 8), 50, 8)).astype(np.float32)
    fisher = np.einsum("rbmi,rbmj->rbij", slopes, slopes)
    weight = rng.standard_normal((rows, columns))
    form = Pattern.parse(pattern)
    return Job(weight, form, form.ratio(ratio), reading, fisher, np.random.default_rng(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:8", "8x1", "16x4", "4x4"])
def test_patterns_are_exact(method: str, pattern: str) -> None:
    found = FUNCTIONS[method](job(pattern=pattern))
    zeros = found.weight == 0
    assert np.array_equal(zeros, ~found.mask)
    if ":" in pattern:
        kept, within = map(int, pattern.split(":"))
        assert (found.mask.reshape(24, -1, within).sum(2) == kept).all()
        return
    rows, columns = (1, 1) if pattern == "unstructured" else map(int, pattern.split("x"))
    for row in range(0, 24, rows):
        for column in range(0, 40, columns):
            block = found.mask[row : row + rows, column : column + columns]
            assert block.all() or not block.any()
    blocks = -(-24 // rows) * -(-40 // columns)
    gone = (~found.mask)[::rows, ::columns].sum()
    assert gone == (blocks // 2 if method != "wanda" or rows > 1 else 24 * 20)


def test_wanda_as_written_in_the_paper() -> None:
    one = job()
    norms = np.sqrt(np.diag(one.read.moment))
    for row, weight in zip(wanda(one).mask, one.weight, strict=True):
        order = sorted(range(40), key=lambda at: abs(weight[at]) * norms[at])
        assert sorted(np.flatnonzero(~row)) == sorted(order[:20])


def eliminated(weight: Array, moment: Array, mask: Array) -> Array:
    """Optimal brain surgeon, column by column, with a fresh inverse of what is left each time."""
    work, columns = weight.copy(), weight.shape[1]
    damped = moment + 0.01 * np.diag(moment).mean() * np.eye(columns)
    for at in range(columns):
        inverse = np.linalg.inv(damped[at:, at:])
        for row in range(len(work)):
            if not mask[row, at]:
                work[row, at:] -= work[row, at] / inverse[0, 0] * inverse[0]
                work[row, at] = 0
    return work


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "8x4"])
def test_sparse_gpt_is_the_surgeon_with_fresh_inverses(pattern: str) -> None:
    one = job(pattern=pattern)
    found = FUNCTIONS["sparsegpt"](one)
    expected = eliminated(one.weight, one.read.moment, found.mask)
    assert np.allclose(found.weight, expected, rtol=1e-6, atol=1e-7)


def test_sparse_gpt_chooses_by_the_surgeon() -> None:
    one = job(columns=32)
    damped = one.read.moment + 0.01 * np.diag(one.read.moment).mean() * np.eye(32)
    costs = np.stack(
        [one.weight[:, at] ** 2 / np.linalg.inv(damped[at:, at:])[0, 0] for at in range(32)], 1
    )
    gone = np.argsort(costs.ravel(), kind="stable")[: costs.size // 2]
    found = FUNCTIONS["sparsegpt"](one)
    assert sorted(np.flatnonzero(~found.mask)) == sorted(gone)


def test_sparse_gpt_goes_beyond_a_block_of_columns() -> None:
    one = job(rows=6, columns=300)
    found = FUNCTIONS["sparsegpt"](one)
    assert np.allclose(found.weight, eliminated(one.weight, one.read.moment, found.mask), rtol=1e-5,
                       atol=1e-6)  # fmt: skip
    shares = {(~found.mask[:, at : at + 32]).mean() for at in range(0, 288, 32)}
    assert shares == {0.5}


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_less_is_lost_than_with_the_mask_alone(pattern: str) -> None:
    one = job(pattern=pattern)
    errors = {}
    for method in ("random", "magnitude", "wanda", "pst", "sparsegpt"):
        errors[method] = lost(one.weight, FUNCTIONS[method](one).weight, one.reading)
    assert errors["sparsegpt"] < errors["wanda"] < errors["random"]
    assert errors["pst"] < errors["magnitude"]


def test_obert_minimises_the_quadratic_form() -> None:
    one = job()
    assert one.fisher is not None
    found = obert(one)
    diagonal = np.diagonal(one.fisher, axis1=2, axis2=3).mean()
    for row, part in [(0, 0), (5, 2), (23, 4)]:
        form = one.fisher[row, part].astype(np.float64) + DAMPING * diagonal * np.eye(8)
        here = slice(8 * part, 8 * part + 8)
        gone = np.flatnonzero(~found.mask[row, here])
        inverse = np.linalg.inv(form)
        owed = np.linalg.solve(inverse[np.ix_(gone, gone)], one.weight[row, here][gone])
        expected = one.weight[row, here] - inverse[:, gone] @ owed
        assert np.allclose(found.weight[row, here], expected, atol=1e-9)


def swapped(one: Job, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """DSnoT one row and one swap at a time."""
    found = mask.copy()
    share, within = one.weight * one.read.mean, one.pattern.within
    for row, kept in enumerate(found):
        limit = ENOUGH * np.abs(share[row]).mean()
        for _ in range(CYCLES):
            error = share[row, ~kept].sum()
            sign = np.sign(error)
            partners = [k for k in range(40) if kept[k] and np.sign(share[row, k]) == -sign]

            def together(a: int, b: int) -> bool:
                return not within or a // within == b // within

            grow = [j for j in range(40) if not kept[j] and np.sign(share[row, j]) == sign
                    and any(together(j, k) for k in partners)]  # fmt: skip
            if abs(error) <= limit or not grow:
                break
            back = max(grow, key=lambda j: abs(share[row, j]) / one.read.variance[j])
            left = [k for k in partners if together(back, k)]
            gone = min(left, key=lambda k: abs(one.weight[row, k]) * one.read.square[k] ** 0.5)
            if abs(error - share[row, back] + share[row, gone]) >= abs(error):
                break
            kept[back], kept[gone] = True, False
    return found


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8"])
def test_dsnot_swap_by_swap(pattern: str) -> None:
    one = job(pattern=pattern)
    start = wanda(one).mask
    found = refined(one, start)
    assert np.array_equal(found.mask, swapped(one, start))
    assert np.array_equal(found.mask.sum(1), start.sum(1))

    def off(mask: NDArray[np.bool_]) -> Array:
        return np.abs(np.where(mask, 0, one.weight * one.read.mean).sum(1))

    assert (off(found.mask) <= off(start)).all()
    assert off(found.mask).sum() < off(start).sum() / 2


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_spreads_keep_the_whole_ratio(program: Program, spread: str, method: str) -> None:
    weights, outcome = sparse(program, ratio=0.6, spread=spread, method=method)
    zeros = {name: float((weights[f"{name}.weight"] == 0).float().mean()) for name in
             ("stem", "up", "down")}  # fmt: skip
    whole = outcome.notes["density"]
    assert whole == pytest.approx(0.4, abs=0.04)
    assert {name: 1 - row["density"] for name, row in outcome.notes["layers"].items()} == (
        pytest.approx(zeros)
    )
    assert (max(zeros.values()) - min(zeros.values()) < 0.04) == (spread == "uniform")
    if spread == "owl":
        assert max(zeros.values()) - min(zeros.values()) <= 2 * REACH + 1 / 16


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sequential", [True, False])
def test_layers_are_done_and_others_refused(
    program: Program, method: str, sequential: bool
) -> None:
    weights, outcome = sparse(program, method=method, sequential=sequential)
    assert list(outcome.notes["layers"]) in (["stem", "up", "down"], ["stem", "down", "up"])
    assert all((weights[f"{name}.weight"] == 0).float().mean() > 0.45 for name in ("stem", "up"))
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    assert "grouped convolution" in reasons["deep"]
    assert any("also read by" in reason for reason in reasons.values())
    before = program.weights()
    assert torch.equal(weights["deep.weight"], before["deep.weight"])
    assert torch.equal(weights["table.weight"], before["table.weight"])


def test_the_walk_sees_sparse_layers(program: Program) -> None:
    once, _ = sparse(program, method="sparsegpt", sequential=True)
    apart, _ = sparse(program, method="sparsegpt", sequential=False)
    assert not torch.equal(once["down.weight"], apart["down.weight"])


def test_an_interrupted_run_goes_on(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = PassContext(calibration=batches(), store=tmp_path)
    expected, _ = sparse(program, method="sparsegpt")

    def killed(stage: str, done: int, total: int) -> None:
        if stage == "sparsify-weights" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparse(program, PassContext(calibration=batches(), store=tmp_path, progress=killed),
               method="sparsegpt")  # fmt: skip
    calls = []
    whole = FUNCTIONS["sparsegpt"]
    monkeypatch.setitem(FUNCTIONS, "sparsegpt", lambda one: (calls.append(one), whole(one))[1])
    found, _ = sparse(program, ctx, method="sparsegpt")
    assert len(calls) == 1
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_rules_and_exclusions(program: Program) -> None:
    rules = (("up", {"ratio": "0"}), ("down", {"pattern": "2:4"}))
    ctx = PassContext(calibration=batches(), rules=rules, exclude=("stem",))
    weights, outcome = sparse(program, ctx, ratio=0.75)
    assert list(outcome.notes["layers"]) == ["down"]
    assert ((weights["down.weight"] != 0).reshape(16, -1, 4).sum(2) == 2).all()
    reasons = [refusal.reason for refusal in outcome.refusals]
    assert "excluded by the user" in reasons
    assert "a rule keeps it as it is (ratio=0)" in reasons


def test_columns_that_do_not_fit_are_refused(program: Program) -> None:
    _, outcome = sparse(program, pattern="4:8", method="magnitude")
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    assert reasons["stem"] == "its 27 columns are no multiple of 8"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pattern": "dense"}, "none of unstructured, N:M"),
     ({"pattern": "0:4"}, "leaves nothing"),
     ({"pattern": "4:4"}, "leaves everything"),
     ({"pattern": "0x4"}, "at least one row"),
     ({"ratio": 1.0}, "leaves nothing"),
     ({"ratio": 0.0}, "leaves everything"),
     ({"pattern": "2:4", "ratio": 0.7}, "has the ratio 0.5"),
     ({"pattern": "2:4", "spread": "lamp"}, "needs a pattern of any ratio"),
     ({"pattern": "4x4", "refine": "dsnot"}, "no blocks"),
     ({"method": "sparsegpt", "refine": "dsnot"}, "refine=dsnot goes with")],
)  # fmt: skip
def test_options_that_make_no_sense(
    program: Program, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sparse(program, **options)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"magnitude", "random"}))
def test_methods_that_need_data_say_so(program: Program, method: str) -> None:
    with pytest.raises(UsageError, match="needs data; give --calib"):
        sparse(program, PassContext(), method=method)


def test_rules_that_make_no_sense(program: Program) -> None:
    for ratio in ("1.5", "half"):
        with pytest.raises(UsageError, match="for layer up"):
            sparse(program, PassContext(rules=(("up", {"ratio": ratio}),)), method="magnitude")


def test_weights_that_are_no_numbers() -> None:
    net = nn.Linear(8, 8)
    net.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN or infinite"):
        sparse(traced(net, torch.randn(2, 8)), PassContext(), method="magnitude")


def test_nothing_to_do() -> None:
    with pytest.raises(UsageError, match="has no weight that can get zeros"):
        sparse(traced(nn.ReLU(), torch.randn(2, 8)), PassContext(), method="magnitude")


@pytest.mark.parametrize("spread", ["uniform", "owl", "global"])
def test_nothing_fits_in_memory(
    program: Program, spread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effc.passes.calibrate.statistics.MOMENT_NBYTES", 0)
    with pytest.raises(UsageError, match="second moments did not fit in memory"):
        sparse(program, spread=spread, sequential=False)


def test_weights_that_are_vectors_are_refused(program: Program) -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.weight = nn.Linear(8, 8), nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.inner(x), self.weight)

    _, outcome = sparse(traced(Vector(), torch.randn(2, 8)), PassContext(), method="magnitude")
    assert [refusal.reason for refusal in outcome.refusals] == ["its weight is a vector"]
    assert list(outcome.notes["layers"]) == ["inner"]


def test_mean_squares_of_windows_that_are_apart() -> None:
    conv = nn.Conv2d(3, 4, 2, stride=2)
    before = traced(conv, torch.randn(2, 3, 8, 8))
    (node,) = [n for n in before.forward.graph.nodes if "conv2d" in str(n.target)]
    inputs, window = torch.randn(2, 3, 8, 8) + 1, Window.of(node)
    known = statistics_of(before, PassContext(calibration=[{"input": inputs}]),
                          [node.args[0].name], moments=True)  # fmt: skip
    reading = Reading.of_statistics(known[node.args[0].name], window)
    assert reading is not None
    columns = nn.functional.unfold(inputs, 2, stride=2)
    assert np.allclose(reading.square, columns.square().mean((0, 2)).numpy(), rtol=1e-5)


def test_it_says_what_it_buys(program: Program) -> None:
    gains = {}
    for pattern in ("unstructured", "2:4", "4x4", "16x1", "32x4"):
        text = f"sparsify-weights{{pattern={pattern} method=magnitude}}"
        row = PassManager.parse(text).run(program, PassContext()).rows[0]
        gains[pattern] = row.notes["gain"]
    assert gains["unstructured"] == gains["2:4"] == gains["4x4"] == "size only"
    assert gains["16x1"] == "size, and time in float32"
    assert gains["32x4"] == "size, and time in float32, bfloat16, int8"
