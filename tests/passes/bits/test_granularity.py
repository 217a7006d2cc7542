"""What decides for a layer, and plans of whole blocks and experts."""

import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import UsageError
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.bits.allocate_bits import AllocateBits
from effc.passes.bits.granularity import joined, together, unit_name
from effc.passes.manager import PassManager
from effc.passes.plan.model import Estimate, Option, Unit


@pytest.mark.parametrize(
    ("layer", "block", "expert"),
    [
        ("head", "head", "head"),
        ("encoder.layer.3.attention.query", "encoder.layer.3", "encoder.layer.3.attention.query"),
        ("blocks.0.experts.5.up", "blocks.0", "blocks.0.experts.5"),
        ("0", "0", "0"), ("blocks.0", "blocks.0", "blocks.0"),
    ],
)  # fmt: skip
def test_names(layer, block, expert):
    assert unit_name(layer, "layer") == layer
    assert unit_name(layer, "block") == block
    assert unit_name(layer, "expert") == expert
    with pytest.raises(UsageError, match="unknown granularity 'rows'; there are: layer, block"):
        unit_name(layer, "rows")


def unit(name, *losses):
    options = (Option(f"o{at}", Estimate(loss, 10.0 - at)) for at, loss in enumerate(losses))
    return Unit(name, tuple(options))


def test_estimates_add_up_and_other_options_decide_alone():
    units = [unit("b.0.x", 1, 2), unit("b.0.y", 3, 5), unit("b.0.z", 4), unit("head", 1)]
    groups = together(units, "block")
    assert {name: [one.name for one in own] for name, own in groups.items()} == {
        "b.0": ["b.0.x", "b.0.y"], "b.0.z": ["b.0.z"], "head": ["head"]
    }  # fmt: skip
    whole = joined("b.0", groups["b.0"])
    assert [(o.name, o.estimate.loss, o.estimate.nbytes) for o in whole.options] == [
        ("o0", 4, 20), ("o1", 7, 18)
    ]  # fmt: skip
    assert whole.layers == ("b.0.x", "b.0.y")
    assert joined("head", groups["head"]) is units[-1]


class Blocks(nn.Module):
    """Two blocks of two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        pairs = [nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(2)]
        self.blocks = nn.ModuleList(pairs)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.mark.parametrize("granularity", ["layer", "block"])
def test_layers_of_a_block_take_one_format(granularity):
    program = traced(Blocks(), torch.randn(8, 32))
    step = AllocateBits(bits=("8", "4", "2"), granularity=granularity, average_bits=4.1)
    ctx = PassContext(calibration=[{"x": torch.randn(8, 32)}])
    notes = PassManager((step,)).run(program, ctx).rows[0].notes
    formats = {name: note["format"] for name, note in notes["layers"].items()}
    assert len(formats) == 5
    for number in "01" if granularity == "block" else "":
        assert formats[f"blocks.{number}.0"] == formats[f"blocks.{number}.2"]
    total = sum(note["predicted_loss"] for note in notes["layers"].values())
    assert total == pytest.approx(notes["plan"]["totals"]["loss"])
    assert sum(n["nbytes"] for n in notes["layers"].values()) == notes["plan"]["totals"]["nbytes"]
