"""`prune-channels`: how much goes, what goes, what is refused, what is an error."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.cost import program_cost, typical_sizes
from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.groups import groups_of
from effc.ir.errors import BudgetError, DataError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import traced
from effc.passes.base import Outcome, PassContext
from effc.passes.prune.channels import PruneChannels
from effc.passes.prune.cost import CutCost
from effc.passes.prune.importance.registry import IMPORTANCES, importance_of
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.registry import parse_pipeline


class Net(nn.Module):
    """A stem, a block with a residual sum, a head; the third quarter of channels is silent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first, self.second = nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 32, 1)
        self.third, self.head = nn.Linear(32, 40), nn.Linear(40, 5)
        for part in (self.first, self.third):
            part.weight.data[12:24] *= 0.01
            part.bias.data[12:24] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.second(self.first(x).relu())).relu()
        return self.head(self.third(x.mean((2, 3))).relu())


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Net(), torch.randn(4, 3, 6, 6), dynamic={"x.0": "batch"})


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(8, 3, 6, 6, generator=generator)} for _ in range(count)]


def pruned(
    program: Program, ctx: PassContext | None = None, **options: Any
) -> tuple[Program, Outcome]:
    copy = program.clone()
    outcome = PruneChannels(**options).run(copy, ctx or PassContext())
    return copy, outcome


def kept(outcome: Outcome) -> dict[str, int]:
    return {row["name"]: row["kept"] for row in outcome.notes["groups"]}


def test_a_share_of_every_group_goes(program: Program) -> None:
    smaller, outcome = pruned(program, ratio=0.25, align=1)
    assert kept(outcome) == {"stem": 24, "first": 36, "third": 30}
    assert smaller.weights()["first.weight"].shape == (36, 24, 3, 3)
    assert smaller.weights()["head.weight"].shape == (5, 30)


def test_the_least_important_go(program: Program) -> None:
    smaller, _ = pruned(program, ratio=0.25, align=1, importance="l1", scope=("channels",))
    expected = torch.cat([torch.arange(12), torch.arange(24, 48)])
    whole = program.weights()["first.bias"][expected]
    assert torch.equal(smaller.weights()["first.bias"], whole)


@pytest.mark.parametrize(
    ("target", "counts"),
    [("x86-64-v4", {"stem": 16, "first": 32, "third": 24}),
     ("x86-64-v3", {"stem": 24, "first": 32, "third": 28})],
)  # fmt: skip
def test_counts_are_multiples_of_vectors(
    program: Program, target: str, counts: dict[str, int]
) -> None:
    _, outcome = pruned(program, PassContext(target=Target.parse(target)), ratio=0.3)
    assert all(count % 8 == 0 for name, count in kept(outcome).items() if name != "third")
    assert set(kept(outcome)) == set(counts)
    lanes = 16 if target.endswith("v4") else 8
    assert kept(outcome)["first"] % lanes == 0


@pytest.mark.parametrize("resource", ["macs", "parameters"])
def test_a_share_of_what_it_costs_goes(program: Program, resource: str) -> None:
    smaller, outcome = pruned(program, ratio=0.5, align=1, of=resource)
    sizes = typical_sizes(program)
    before, after = (program_cost(one).at(sizes) for one in (program, smaller))
    whole, left = outcome.notes["macs"]
    assert (whole, left) == (before["macs"], after["macs"])
    elements = [sum(w.numel() for w in one.weights().values()) for one in (program, smaller)]
    assert outcome.notes["parameters"] == elements
    share = left / whole if resource == "macs" else elements[1] / elements[0]
    assert 0.4 < share <= 0.5


@pytest.mark.parametrize("importance", sorted(set(IMPORTANCES) - {"norm-scale"}))
def test_every_importance_orders(program: Program, importance: str) -> None:
    context = PassContext(calibration=batches())
    smaller, outcome = pruned(program, context, ratio=0.25, align=1, importance=importance)
    assert outcome.changed
    silent = torch.linalg.vector_norm(smaller.weights()["first.weight"].flatten(1), dim=1) < 0.1
    if importance != "random":
        assert int(silent.sum()) <= 3  # twelve of 48 were silent, twelve go


def test_norm_scales() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    net[1].weight.data[:] = torch.tensor([1.0, 0.1, 1, 1, 0.1, 1, 1, 1])
    program = traced(net, torch.randn(1, 3, 4, 4))
    smaller, _ = pruned(program, ratio=0.25, align=1, importance="norm-scale")
    assert torch.equal(smaller.weights()["1.weight"], torch.ones(6))
    linear = traced(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.randn(1, 3))
    with pytest.raises(UsageError, match="0 has no norm whose scale could be its importance"):
        pruned(linear, importance="norm-scale")


@pytest.mark.parametrize(
    "options",
    [{"importance": "taylor"}, {"importance": "wanda"}, {"repair": "columns"},
     {"repair": "sequential"}],
)  # fmt: skip
def test_data_that_is_missing(program: Program, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="calibration data"):
        pruned(program, **options)


@pytest.mark.parametrize("repair", ["columns", "sequential"])
def test_repair_is_nearer_to_the_original(program: Program, repair: str) -> None:
    context = PassContext(calibration=batches(8))
    plain, _ = pruned(program, context, ratio=0.5, align=1, importance="random")
    repaired, outcome = pruned(
        program, context, ratio=0.5, align=1, importance="random", repair=repair
    )
    assert outcome.notes["repaired"] == {"columns": 4, "sequential": 8}[repair]  # biases, too
    held_out = [{"x": torch.randn(16, 3, 6, 6)}]
    errors = [_error(program, one, held_out[0]) for one in (plain, repaired)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("repair", ["columns", "sequential"])
def test_repair_is_exact_where_channels_repeat(repair: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    twin = net[0].weight.data[:4], net[0].bias.data[:4]
    net[0].weight.data[4:], net[0].bias.data[4:] = 0.5 * twin[0], 0.5 * twin[1]
    net[2].weight.data[:] = 1
    program = traced(net, torch.randn(6, 4))
    data = [{"input": torch.randn(6, 4)} for _ in range(30)]
    smaller, _ = pruned(
        program, PassContext(calibration=data), ratio=0.5, align=1, repair=repair,
    )  # fmt: skip
    assert smaller.weights()["0.weight"].shape == (4, 4)
    assert _error(program, smaller, data[0]) < 1e-3


def _error(before: Program, after: Program, inputs: dict[str, Tensor]) -> float:
    expected, found = before.run(inputs)["output"], after.run(inputs)["output"]
    return float((expected - found).square().mean() / expected.square().mean())


def test_global_spread_takes_from_where_it_matters_least(program: Program) -> None:
    _, outcome = pruned(program, ratio=0.2, align=1, importance="l1", spread="global")
    assert kept(outcome) == {"stem": 32, "first": 36, "third": 28}  # 12 of both are silent


def test_excluded_groups_stay(program: Program) -> None:
    _, outcome = pruned(program, PassContext(exclude=("fir*",)), align=1)
    assert set(kept(outcome)) == {"stem", "third"}
    with pytest.raises(UsageError, match="pattern 'nothing' matches nothing"):
        pruned(program, PassContext(exclude=("nothing",)))


def test_what_must_stay_is_refused(program: Program) -> None:
    _, outcome = pruned(program)
    assert [(one.source, one.reason) for one in outcome.refusals] == [
        ("head", "it reaches the output output")]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "ratio=1 leaves nothing; take one between 0 and 1"),
        ({"ratio": 0.0}, "ratio=0 leaves everything"),
        ({"of": "bytes"}, "'bytes' is none of channels, macs, parameters"),
        ({"spread": "even"}, "'even' is none of uniform, global, adaptive, plan"),
        ({"spread": "plan"}, "spread=plan needs of=macs or of=parameters"),
        ({"repair": "all"}, "'all' is none of none, columns, sequential"),
        ({"align": 0}, "align=0 is no number of channels"),
        ({"importance": "best"}, "unknown importance 'best'; there are: l1"),
        ({"scope": ("blocks",)}, "there is no kind blocks"),
        ({"scope": ("heads",)}, "test has no group that can be pruned"),
    ],
)
def test_wrong_options(program: Program, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pruned(program, **options)


def test_a_model_with_nothing_to_prune() -> None:
    program = traced(nn.Linear(4, 3), torch.ones(2, 4))
    with pytest.raises(
        UsageError, match="test has no group that can be pruned: it reaches the output output"
    ):
        pruned(program)


def test_more_than_can_go(program: Program) -> None:
    with pytest.raises(BudgetError, match=r"cannot remove 100% of the macs; the nearest is 99"):
        pruned(program, ratio=0.9999, of="macs", align=1)


def test_small_ratios_leave_a_program_alone(program: Program) -> None:
    copy, outcome = pruned(program, ratio=0.001)
    assert not outcome.changed
    assert copy.weight_nbytes == program.weight_nbytes


def test_costs_of_what_is_cut_are_those_of_the_program_cut(program: Program) -> None:
    coupling = analyse(program)
    cost = CutCost(program, coupling)
    sizes = typical_sizes(program)
    assert cost.macs(np.zeros(0, np.int64)) == program_cost(program).at(sizes)["macs"]


def test_pipeline_text() -> None:
    text = "prune-channels{ratio=0.5 of=macs scope=heads|neurons}"
    (step,) = parse_pipeline(text)
    assert step == PruneChannels(ratio=0.5, of="macs", scope=("heads", "neurons"))


@pytest.mark.parametrize("resource", ["macs", "parameters"])
def test_a_plan_loses_less_than_the_same_share_of_everything(
    program: Program, resource: str
) -> None:
    found = {}
    for spread in ("uniform", "plan"):
        smaller, outcome = pruned(
            program, ratio=0.4, align=1, of=resource, importance="l2", spread=spread
        )
        before, after = outcome.notes[resource]
        assert after <= 0.6 * before
        found[spread] = _lost(program, outcome)
        assert smaller.signatures == program.signatures
    assert found["plan"] <= found["uniform"]


def _lost(program: Program, outcome: Outcome) -> float:
    """Sum of the scores of what went."""
    study = Scoring(program, analyse(program), PassContext())
    groups = {one.name: one for one in groups_of(study.coupling)}
    total = 0.0
    for row in outcome.notes["groups"]:
        scores = np.sort(importance_of("l2").scores(study, groups[row["name"]]))
        total += float(scores[: row["size"] - row["kept"]].sum())
    return total
