"""`spread=adaptive`: groups of blocks that change much keep more."""

import pytest
import torch
from torch import Tensor, nn

from effc.ir.coupling.analysis import analyse
from effc.ir.coupling.groups import groups_of
from effc.ir.errors import DataError
from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.prune.adaptive import AMPLITUDE, tilts
from effc.passes.prune.channels import PruneChannels
from effc.passes.prune.importance.scoring import Scoring

SIZES = (0.1, 1.0, 3.0)
DATA = [{"x": torch.randn(8, 16, generator=torch.Generator().manual_seed(1))} for _ in range(3)]


class Block(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16)
        self.down.weight.data *= size

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """Three blocks of rising strength and a layer outside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(*[Block(size) for size in SIZES])
        self.last, self.head = nn.Linear(16, 40), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(x)).relu())


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Net(), torch.randn(2, 16), dynamic={"x.0": "batch"})


def test_tilts_are_centred_cosines(program: Program) -> None:
    study = Scoring(program, analyse(program), PassContext(calibration=DATA))
    groups = [group for group in groups_of(study.coupling) if group.kind == "neurons"]
    found = dict(zip([group.name for group in groups], tilts(study, groups), strict=True))
    x = torch.cat([batch["x"] for batch in DATA])
    net, distances = Net(), []
    with torch.no_grad():
        for block in net.blocks:
            distances.append(float(1 - torch.cosine_similarity(x, block(x), dim=-1).mean()))
            x = block(x)
    centred = torch.tensor(distances) - sum(distances) / len(distances)
    expected = (centred / centred.abs().max()).tolist()
    names = [f"blocks.{at}.up" for at in range(3)]
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-4)
    assert found["last"] == 0.0


def test_what_changes_much_keeps_more(program: Program) -> None:
    step = PruneChannels(ratio=0.4, align=1, spread="adaptive", scope=("neurons",))
    context = PassContext(calibration=DATA)
    outcome = step.run(program.clone(), context)
    kept = {row["name"]: row["kept"] / row["size"] for row in outcome.notes["groups"]}
    assert kept["blocks.0.up"] < kept["last"] < kept["blocks.2.up"]
    assert kept["last"] == pytest.approx(0.6)
    limits = [1 - 0.4 * (1 + sign * AMPLITUDE) for sign in (1, -1)]
    assert limits[0] - 0.02 <= min(kept.values()) <= max(kept.values()) <= limits[1] + 0.02


def test_small_steps_with_recovery_between(program: Program) -> None:
    small = "prune-channels{ratio=0.2 align=1 spread=adaptive scope=neurons}"
    recovery = "recover{steps=20}"
    text = ",".join([small, recovery] * 2)
    report = PassManager.parse(text).run(program, PassContext(calibration=DATA))
    assert report.program.weight_nbytes < 0.8 * program.weight_nbytes
    losses = [row.notes["loss_after"] / row.notes["loss_before"] for row in report.rows[1::2]]
    assert max(losses) < 1


def test_it_needs_data(program: Program) -> None:
    with pytest.raises(DataError, match="spread=adaptive needs calibration data"):
        PruneChannels(spread="adaptive").run(program.clone(), PassContext())
