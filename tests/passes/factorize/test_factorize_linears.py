"""`factorize-linears`: closed forms against numpy written another way, ranks, refusals, errors."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, set_attribute
from effc.ir.testing import ROUNDING, assert_same_outputs, traced
from effc.passes.base import Outcome, PassContext
from effc.passes.factorize.factorize_linears import FactorizeLinears
from effc.passes.factorize.factors import block_shuffle, energies, low_rank
from effc.passes.factorize.ranks import Choice, by_budget, by_energy, uniform
from effc.passes.sparsify.job import Reading, lost


def operands(out: int = 24, columns: int = 32) -> tuple[Any, Any]:
    """A weight, and inputs of very different size in different directions."""
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((columns, columns)) * np.logspace(0, -2, columns)
    return rng.standard_normal((out, columns)), rng.standard_normal((400, columns)) @ inputs


@pytest.mark.parametrize("rank", [1, 7, 24])
def test_low_rank_has_the_least_error_of_its_rank(rank: int) -> None:
    weight, inputs = operands()
    found = low_rank(weight, inputs.T @ inputs, rank)
    values = np.linalg.svd(weight @ inputs.T, compute_uv=False)
    error = np.linalg.norm((weight - found.dense) @ inputs.T) ** 2
    assert error == pytest.approx(float((values[rank:] ** 2).sum()), abs=1e-8 * values[0] ** 2)
    assert np.allclose(found.second @ found.first, found.dense)
    assert found.first.shape == (rank, 32)
    assert np.allclose(energies(weight, inputs.T @ inputs), values**2, rtol=1e-6, atol=1e-9)


def test_without_data_the_weight_itself_has() -> None:
    weight, _ = operands()
    values = np.linalg.svd(weight, compute_uv=False)
    error = np.linalg.norm(weight - low_rank(weight, None, 9).dense)
    assert error == pytest.approx(float(np.sqrt((values[9:] ** 2).sum())))


def test_directions_nobody_reads_cost_nothing() -> None:
    weight, inputs = operands()
    inputs[:, 10:] = 0
    found = low_rank(weight, inputs.T @ inputs, 10)
    assert np.allclose(found.dense @ inputs.T, weight @ inputs.T, atol=1e-5)
    assert np.isfinite(found.dense).all()


@pytest.mark.parametrize("rank", [1, 2])
def test_every_pair_of_blocks_has_the_least_error(rank: int) -> None:
    weight, inputs = operands()
    found = block_shuffle(weight, inputs.T @ inputs, 4, rank)
    for target, source in product(range(4), range(4)):
        rows, columns = slice(6 * target, 6 * target + 6), slice(8 * source, 8 * source + 8)
        part = inputs[:, columns].T
        values = np.linalg.svd(weight[rows, columns] @ part, compute_uv=False)
        error = np.linalg.norm((weight - found.dense)[rows, columns] @ part) ** 2
        assert error == pytest.approx(float((values[rank:] ** 2).sum()), rel=1e-5)


def choices() -> list[Choice]:
    rng = np.random.default_rng(0)
    shapes = [(8, 8), (8, 12), (6, 6)]
    return [Choice(o, i, np.sort(rng.exponential(1, min(o, i)) ** 3)[::-1]) for o, i in shapes]


def test_ranks_of_a_ratio_and_of_an_energy() -> None:
    assert uniform(choices(), 0.5, 1) == [2, 2, 1]
    assert uniform([Choice(64, 64, np.zeros(0))], 0.3, 16) == [16]
    for one, rank in zip(choices(), by_energy(choices(), 0.8, 1), strict=True):
        shares = np.cumsum(one.energies) / one.energies.sum()
        wanted = next(r + 1 for r, share in enumerate(shares) if share >= 0.8)
        assert rank == (wanted if wanted * one.each < one.dense else 0)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.6])
def test_a_budget_is_kept_and_near_the_best(ratio: float) -> None:
    layers = choices()
    found = by_budget(layers, ratio, 1)
    budget = (1 - ratio) * sum(one.dense for one in layers)

    def cost(ranks: Any) -> int:
        return sum(r * one.each if r else one.dense for one, r in zip(layers, ranks, strict=True))

    def loss(ranks: Any) -> float:
        pairs = zip(layers, ranks, strict=True)
        return sum(one.energies[r:].sum() / one.energies.sum() for one, r in pairs if r)

    possible = [range(0, -(-one.dense // one.each)) for one in layers]
    fitting = [ranks for ranks in product(*possible) if cost(ranks) <= budget]
    assert cost(found) <= budget
    assert loss(found) <= 2 * min(map(loss, fitting)) + 0.05


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)
        self.thin, self.conv = nn.Linear(32, 4), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(self.up(x).relu())
        return self.thin(x)


@pytest.fixture(scope="module")
def program() -> Program:
    dynamic = {"x.0": "batch", "x.1": "tokens"}
    return traced(Net(), torch.randn(2, 3, 32), dynamic=dynamic)


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(32, 32, generator=generator)
    return [{"x": torch.randn(4, 16, 32, generator=generator) @ mix} for _ in range(4)]


def factorised(
    program: Program, ctx: PassContext | None = None, **options: Any
) -> tuple[Program, Outcome]:
    copy = program.clone()
    context = PassContext(calibration=batches()) if ctx is None else ctx
    return copy, FactorizeLinears(**options).run(copy, context)


@pytest.mark.parametrize("form", ["low-rank", "block-shuffle"])
@pytest.mark.parametrize("sequential", [True, False])
def test_the_program_computes_with_the_product(
    program: Program, form: str, sequential: bool
) -> None:
    after, outcome = factorised(program, form=form, ratio=0.5, align=1, sequential=sequential)
    before, after_count = outcome.notes["parameters"]
    assert 0.3 * before < after_count <= 0.51 * before
    weights = sum(
        weight.numel() for weight in after.weights().values() if weight.is_floating_point()
    )
    whole = sum(weight.numel() for weight in program.weights().values())
    assert whole - weights == before - after_count
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    if form == "low-rank":
        assert set(outcome.notes["layers"]) == {"up", "down", "thin"} - set(reasons)
        ops = [op_name(node) for node in after.forward.graph.nodes]
        assert ops.count("aten.linear.default") == 3 + len(outcome.notes["layers"])
    errors = [row["relative_error"] for row in outcome.notes["layers"].values()]
    assert all(0 < error < 0.8 for error in errors)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_blocks_of_inputs_of_all_ranks_equal_their_product(rank: int) -> None:
    torch.manual_seed(1)
    net = nn.Linear(16, 24)
    x = torch.randn(*(3, 5, 2)[: rank - 1], 16)
    before = traced(net, x)
    after, _ = factorised(before, PassContext(), form="block-shuffle", ratio=0.4, whiten=False)
    dense = block_shuffle(net.weight.detach().double().numpy(), None, 4, 1).dense
    expected = before.clone()
    set_attribute(expected.forward, "weight", torch.from_numpy(dense).float())
    assert_same_outputs(expected, after, tolerance=ROUNDING[torch.float32])


def test_data_helps(program: Program) -> None:
    def error(**options: Any) -> float:
        after, _ = factorised(program, ratio=0.5, align=1, **options)
        found = [(program.run(one)["output"] - after.run(one)["output"]).square().sum()
                 for one in batches()]  # fmt: skip
        return float(torch.stack(found).sum())

    plain, white = error(whiten=False), error(sequential=False)
    assert white < plain
    assert error(compensation=1.0) < 1.05 * white


def test_what_does_not_pay_is_refused(program: Program) -> None:
    _, outcome = factorised(program, ratio=0.3, align=4)
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    assert "no smaller than the weight" in reasons["thin"]
    with pytest.raises(UsageError, match="no linear that gets smaller"):
        factorised(program, ratio=0.1, align=32)


def test_blocks_that_do_not_fit_are_refused(program: Program) -> None:
    _, outcome = factorised(program, form="block-shuffle", blocks=8)
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    assert "no multiple of 8 blocks" in reasons["thin"]


def test_only_linears_are_factorised() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 64))
    _, outcome = factorised(traced(net, torch.randn(2, 4, 4, 4)), PassContext(), whiten=False)
    assert [refusal.reason for refusal in outcome.refusals] == ["only linears are factorised"]


@pytest.mark.parametrize("spread", ["uniform", "budget", "energy"])
def test_without_linears_nothing_gets_smaller(spread: str) -> None:
    net, inputs = nn.Conv2d(4, 4, 1), torch.randn(2, 4, 4, 4)
    with pytest.raises(UsageError, match="no linear that gets smaller: only linears are"):
        factorised(traced(net, inputs), PassContext(calibration=[{"input": inputs}]), spread=spread)


def test_inputs_too_wide_to_whiten_are_refused(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effc.passes.calibrate.statistics.MOMENT_NBYTES", 8 * 32**2)
    _, outcome = factorised(program, ratio=0.5, align=1, sequential=False)
    reasons = {refusal.source: refusal.reason for refusal in outcome.refusals}
    assert reasons["down"] == "the second moments of its input did not fit in memory"
    assert "up" in outcome.notes["layers"]
    assert "down" not in outcome.notes["layers"]


def test_rules_and_exclusions(program: Program) -> None:
    ctx = PassContext(
        calibration=batches(), rules=(("up", {"ratio": "0.7"}),), exclude=("down", "thin")
    )
    _, outcome = factorised(program, ctx, ratio=0.3, align=1)
    assert {name: row["rank"] for name, row in outcome.notes["layers"].items()} == {"up": 6}


def test_a_budget_and_an_energy_of_the_whole(program: Program) -> None:
    _, outcome = factorised(program, ratio=0.4, align=1, spread="budget")
    after = outcome.notes["parameters"][1] + sum(
        program.weights()[f"{name}.weight"].numel()
        for name in {"up", "down", "thin"} - set(outcome.notes["layers"])
    )
    assert after <= 0.6 * (2 * 32 * 64 + 128)
    _, outcome = factorised(program, spread="energy", energy=0.9, align=1, sequential=False)
    assert all(row["relative_error"] <= 0.1 + 1e-6 for row in outcome.notes["layers"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ratio": 1.0}, "leaves nothing"), ({"ratio": 0.0}, "leaves everything"),
     ({"energy": 1.0}, "not between 0 and 1"), ({"align": 0}, "align is at least 1"),
     ({"form": "block-shuffle", "spread": "energy"}, "goes with form=low-rank")],
)  # fmt: skip
def test_options_that_make_no_sense(
    program: Program, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        factorised(program, **options)


def test_data_is_asked_for(program: Program) -> None:
    with pytest.raises(UsageError, match="needs data; give --calib"):
        factorised(program, PassContext())


def test_errors_are_of_the_outputs() -> None:
    weight, inputs = operands()
    found = low_rank(weight, inputs.T @ inputs, 5).dense
    reading = Reading(inputs.T @ inputs, inputs.mean(0), len(inputs))
    expected = ((weight - found) @ inputs.T) ** 2
    share = expected.sum() / ((weight @ inputs.T) ** 2).sum()
    assert lost(weight, found, reading) == pytest.approx(float(share), rel=1e-4)
