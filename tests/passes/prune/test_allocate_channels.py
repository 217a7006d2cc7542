"""`allocate-channels`: limits hold as counted, the choice is the best, both kinds are traded."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.kept import Kept
from effc.ir.coupling.masking import Masked
from effc.ir.errors import DataError, UsageError
from effc.ir.program import Program
from effc.ir.testing import ROUNDING, assert_close, traced
from effc.passes.base import Outcome, PassContext
from effc.passes.bits.metrics.study import Study
from effc.passes.plan.model import Limit
from effc.passes.plan.timing import Timing
from effc.passes.prune.allocate_channels import AllocateChannels
from effc.passes.prune.channels import SCOPE, groups_to_cut
from effc.passes.prune.importance.scoring import Scoring
from effc.passes.prune.mixing import Mix, mixed

SCALES = 8  # bytes of scale and zero point of what a layer in 8 bits reads


class Net(nn.Module):
    """Two convolutions and a classifier; a third of the first's channels are nearly silent."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 16, 3)
        self.head = nn.Linear(16, 5)
        self.first.weight.data[::3] *= 0.01
        self.first.bias.data[::3] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Net(), torch.randn(4, 3, 6, 6), dynamic={"x.0": "batch"})


@pytest.fixture(scope="module")
def data() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(8, 3, 6, 6, generator=generator)} for _ in range(4)]


def step(**options: Any) -> AllocateChannels:
    return AllocateChannels(
        **{"bits": ("float", "8"), "metric": "output-divergence", "align": 4, **options}
    )


def ran(
    program: Program, data: Any, limits: tuple[Limit, ...] = (), **options: Any
) -> tuple[Program, Outcome]:
    copy = program.clone()
    context = PassContext(calibration=data, limits=limits)
    return copy, step(**options).run(copy, context)


def formats(outcome: Outcome) -> dict[str, str]:
    return {name: note["format"] for name, note in outcome.notes["layers"].items()}


def kept(outcome: Outcome) -> dict[str, int]:
    return {row["name"]: row["kept"] for row in outcome.notes["groups"]}


def mix_of(program: Program, data: Any, **options: Any) -> Mix:
    own = step(**options)
    study = Study(program, own._parts(program, PassContext()), PassContext(calibration=data))
    scoring = Scoring(program, analyse(program), study.ctx, own.repair != "none")
    return own._mix(study, scoring, groups_to_cut(scoring, SCOPE, own.name)[0])[0]


def test_without_a_limit_nothing_goes(program: Program, data: Any) -> None:
    copy, outcome = ran(program, data)
    assert not outcome.changed
    assert kept(outcome) == {"first": 24, "second": 16}
    assert set(formats(outcome).values()) == {"float32"}
    assert copy.weight_nbytes == program.weight_nbytes


@pytest.mark.parametrize("share", [0.6, 0.3, 0.2, 0.12])
def test_bytes_are_kept_and_counted(program: Program, data: Any, share: float) -> None:
    most = int(share * program.weight_nbytes)
    copy, outcome = ran(program, data, (Limit("nbytes", most),))
    plan = outcome.notes["plan"]
    counted = plan["totals"]["nbytes"] + plan["other_nbytes"]
    coded = sum(text == "w8a8" for text in formats(outcome).values())
    assert counted <= most
    assert copy.weight_nbytes - SCALES * coded <= counted <= copy.weight_nbytes


def test_both_are_traded(program: Program, data: Any) -> None:
    copy, outcome = ran(program, data, (Limit("nbytes", 0.1 * program.weight_nbytes),))
    assert kept(outcome)["first"] <= 16  # the silent ones go first
    assert "w8a8" in formats(outcome).values()
    assert copy.weights()["second.weight_codes"].shape[1] == kept(outcome)["first"]


def test_in_float_it_prunes_only(program: Program, data: Any) -> None:
    limit = Limit("nbytes", 0.5 * program.weight_nbytes)
    copy, outcome = ran(program, data, (limit,), bits=("float",), repair="none")
    assert set(formats(outcome).values()) == {"float32"}
    assert copy.weight_nbytes <= limit.at_most
    mix = mix_of(program, data, bits=("float",), repair="none")
    counts = {one.name: str(kept(outcome)[one.group.name]) for one in mix.choices}
    masked = Masked(program, Kept(mix.coupling, mix.cut(counts)))
    (found,), (expected,) = copy.run(data[0]).values(), masked.outputs(data[0]).values()
    assert_close("output", expected, found, ROUNDING[torch.float32])


@pytest.mark.parametrize("share", [0.7, 0.4, 0.25, 0.15, 0.1])
@pytest.mark.parametrize("resource", ["nbytes", "seconds"])
def test_as_good_as_the_best_of_all(
    program: Program, data: Any, share: float, resource: Any
) -> None:
    mix = mix_of(program, data)
    most = share * mix.totals(mix.start)[resource]
    limit = Limit(resource, most)
    plan, _ = mixed(mix, [limit], "ilp", np.random.default_rng(0))
    units = [unit for unit in mix.problem(mix.start, ()).units if len(unit.options) > 1]
    rows = itertools.product(*[[option.name for option in unit.options] for unit in units])
    totals = [
        mix.totals({unit.name: name for unit, name in zip(units, row, strict=True)}) for row in rows
    ]
    best = min((one["loss"] for one in totals if limit.holds(one[resource])), default=None)
    if best is None:
        assert plan.binding == limit
        assert plan.nearest == pytest.approx(min(one[resource] for one in totals))
    else:
        assert limit.holds(plan.totals[resource])
        assert best <= plan.totals["loss"] <= 1.2 * best + 1e-12


def test_operations_are_kept(program: Program, data: Any) -> None:
    _, whole = ran(program, data, bits=("float",))
    _, outcome = ran(program, data, bits=("float",), bit_operations=0.5)
    before, after = (one.notes["plan"]["totals"]["bit_operations"] for one in (whole, outcome))
    assert 0.3 * before < after <= 0.5 * before
    assert min(row["kept"] / row["size"] for row in outcome.notes["groups"]) < 1


def test_measured_times_shrink_with_what_is_left(program: Program, data: Any) -> None:
    seconds = {"first": 1e-3, "second": 4e-3, "head": 1e-4, "else": 1e-4}
    timing = Timing({"float32": seconds})
    copy, context = program.clone(), PassContext(
        calibration=data, timing=timing, limits=(Limit("seconds", 3e-3),)
    )  # fmt: skip
    outcome = step(bits=("float",)).run(copy, context)
    plan = outcome.notes["plan"]
    assert plan["totals"]["seconds"] + plan["other_seconds"] <= 3e-3
    share = np.prod([row["kept"] / row["size"] for row in outcome.notes["groups"]])
    assert outcome.notes["layers"]["second"]["seconds"] == pytest.approx(4e-3 * share)
    assert outcome.notes["layers"]["second"]["seconds_from"] == "measured"


def test_a_limit_no_plan_keeps(program: Program, data: Any) -> None:
    copy, outcome = ran(program, data, (Limit("nbytes", 100, "--max-size 100B"),))
    said = outcome.notes["infeasible"]
    assert said.startswith("no plan has at most 100 bytes (--max-size 100B): the nearest")
    plan = outcome.notes["plan"]
    nearest = plan["totals"]["nbytes"] + plan["other_nbytes"]
    assert f"{nearest:,.6g} bytes" in said
    assert copy.weight_nbytes < 0.1 * program.weight_nbytes


def test_what_would_change_a_group(program: Program, data: Any) -> None:
    _, outcome = ran(program, data, (Limit("nbytes", 0.22 * program.weight_nbytes),))
    (row,) = [row for row in outcome.notes["groups"] if row["name"] == "first"]
    assert row["runner_up"] > row["kept"]
    assert row["runner_up_loss"] <= row["predicted_loss"]
    assert row["changes_at_nbytes"] > outcome.notes["plan"]["totals"]["nbytes"]


def test_excluded_groups_and_layers_stay(program: Program, data: Any) -> None:
    copy, limit = program.clone(), Limit("nbytes", 0.4 * program.weight_nbytes)
    context = PassContext(calibration=data, limits=(limit,), exclude=("first",))
    outcome = step().run(copy, context)
    assert "first" not in kept(outcome)
    assert copy.weights()["first.weight"].shape == (24, 3, 3, 3)


def test_without_data_some_is_made(program: Program, data: Any) -> None:
    copy, limit = program.clone(), Limit("nbytes", 0.3 * program.weight_nbytes)
    context = PassContext(limits=(limit,), substitute=lambda: data)
    outcome = step().run(copy, context)
    assert outcome.notes["data"].startswith("there is no calibration data")
    assert copy.weight_nbytes <= limit.at_most + SCALES * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"repair": "all"},
      "allocate-channels: there is no repair=all; there are: none, columns, sequential"),
     ({"metric": "sqnr"}, "allocate-channels: metric=sqnr does not predict what cuts are measured"),
     ({"refine": 2}, "allocate-channels: refine=2 exchanges formats alone; leave it out"),
     ({"scope": ("rows",)}, "allocate-channels: there is no kind rows"),
     ({"importance": "luck"}, "unknown importance 'luck'")],
)  # fmt: skip
def test_bad_options(program: Program, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        ran(program, data, **options)
    assert str(error.value).startswith(message)


def test_no_data_at_all(program: Program) -> None:
    nothing: list[dict[str, Tensor]] = []
    with pytest.raises(DataError):
        ran(program, nothing)
