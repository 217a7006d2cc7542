"""`prune-blocks`: which blocks there are, that the rest computes what it did, what is an error."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import DataError, UsageError
from effc.ir.program import Program
from effc.ir.testing import EXACT, assert_close, traced
from effc.passes.base import Outcome, PassContext
from effc.passes.prune.blocks import PruneBlocks, Without
from effc.passes.prune.residuals import blocks_of


class Layer(nn.Module):
    """Two residual branches, as a transformer's layer has them; a spelled-out GELU inside."""

    def __init__(self, width: int, size: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        for part in (self.first, self.second):
            part.weight.data *= size
            part.bias.data *= size

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x).sigmoid()
        y = self.second(x)
        y = 0.5 * y * (1 + (math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)).tanh())
        return y + x


class Net(nn.Module):
    """Four layers of different strength between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.position = nn.Linear(6, 8), nn.Parameter(torch.randn(5, 8))
        self.layers = nn.Sequential(*[Layer(8, size) for size in (1.0, 0.1, 2.0, 3.0)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x) + self.position))


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Net(), torch.randn(2, 5, 6), dynamic={"x.0": "batch"})


DATA = [{"x": torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))}]


def pruned(program: Program, **options: Any) -> tuple[Program, Outcome]:
    copy = program.clone()
    return copy, PruneBlocks(**options).run(copy, PassContext(calibration=DATA))


def gone(outcome: Outcome) -> list[str]:
    return [row["name"] for row in outcome.notes["blocks"] if not row["kept"]]


def test_blocks_are_modules_and_branches_are_layers(program: Program) -> None:
    names = [f"layers.{at}" for at in range(4)]
    assert [block.name for block in blocks_of(program, is_whole=True)] == names
    assert all(len(block.branches) == 2 for block in blocks_of(program, is_whole=True))
    branches = blocks_of(program, is_whole=False)
    assert [one.name for one in branches][:2] == ["layers.0.first", "layers.0.second"]
    assert len(branches) == 8


@pytest.mark.parametrize("level", ["block", "branch"])
@pytest.mark.parametrize("importance", ["cosine", "output-divergence", "learned", "last", "random"])
def test_equals_the_whole_with_branches_masked(
    program: Program, level: str, importance: str
) -> None:
    smaller, outcome = pruned(program, ratio=0.5, level=level, importance=importance)
    names = gone(outcome)
    assert len(names) == (2 if level == "block" else 4)
    blocks = [one for one in blocks_of(program, level == "block") if one.name in names]
    (expected,) = Without(program.forward, blocks).outputs([DATA[0]["x"]])
    assert_close("output", expected, smaller.run(DATA[0])["output"], EXACT)
    assert smaller.weight_nbytes < program.weight_nbytes
    assert smaller.signatures == program.signatures


def test_the_block_that_does_least_goes(program: Program) -> None:
    for importance in ("cosine", "output-divergence"):
        smaller, outcome = pruned(program, level="branch", ratio=0.13, importance=importance)
        assert gone(outcome) == ["layers.1.second"]
        assert "layers.1.second.weight" not in smaller.weights()
        assert "layers.1.first.weight" in smaller.weights()


def test_excluded_blocks_stay(program: Program) -> None:
    ctx = PassContext(calibration=DATA, exclude=("layers.[12]",))
    outcome = PruneBlocks(ratio=0.9).run(program.clone(), ctx)
    assert gone(outcome) == ["layers.0", "layers.3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ratio": 1.0}, "ratio=1 is not between 0 and 1"),
     ({"importance": "learned", "steps": 0}, "steps=0 trains nothing"),
     ({"level": "head"}, "'head' is none of block, branch"),
     ({"importance": "l2"}, "'l2' is none of cosine, output-divergence, learned, last, random")],
)  # fmt: skip
def test_wrong_options(program: Program, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pruned(program, **options)


def test_no_block_and_no_data(program: Program) -> None:
    plain = traced(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4))
    with pytest.raises(UsageError, match="test has no residual block that can go"):
        PruneBlocks().run(plain, PassContext())
    with pytest.raises(DataError, match="importance=cosine needs calibration data"):
        PruneBlocks().run(program.clone(), PassContext())


def test_learned_masks_find_what_can_be_made_up_for() -> None:
    """The largest branch adds a constant, which the head learns to add: it costs least to lose."""
    net = Net()
    with torch.no_grad():
        net.layers[2].second.weight.zero_()
        net.layers[2].second.bias.fill_(4.0)
        net.layers[1].second.weight.mul_(6)
    known = traced(net, torch.randn(2, 5, 6), dynamic={"x.0": "batch"})
    (first,) = gone(pruned(known, level="branch", ratio=0.13, importance="output-divergence")[1])
    assert first != "layers.2.second"
    options = {"level": "branch", "ratio": 0.13, "importance": "learned", "steps": 200}
    assert gone(pruned(known, **options)[1]) == ["layers.2.second"]


def test_learning_gives_the_same_twice_and_leaves_the_weights(program: Program) -> None:
    options = {"level": "branch", "ratio": 0.5, "importance": "learned", "steps": 20}
    (first, one), (second, two) = (pruned(program, **options) for _ in range(2))
    assert one.notes == two.notes
    assert len(gone(one)) == 4
    for name, weight in first.weights().items():
        assert torch.equal(weight, second.weights()[name])
        assert torch.equal(weight, program.weights()[name])


def test_learning_on_what_is_no_number(program: Program) -> None:
    data = [{"x": torch.full((4, 5, 6), 1e38)}]
    context = PassContext(calibration=data)
    with pytest.raises(DataError):
        PruneBlocks(importance="learned", steps=5).run(program.clone(), context)


def test_the_last_go(program: Program) -> None:
    assert gone(pruned(program, importance="last", ratio=0.5)[1]) == ["layers.2", "layers.3"]
