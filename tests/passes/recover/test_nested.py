"""`recover{depths=...}`: one set of weights serves several depths."""

import pytest
import torch
from torch import Tensor, nn

from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.testing import EXACT, assert_close, traced
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.passes.recover.nested import Nested

DATA = [{"x": torch.randn(16, 8, generator=torch.Generator().manual_seed(at))} for at in range(6)]
FRESH = {"x": torch.randn(64, 8, generator=torch.Generator().manual_seed(99))}
FIRST_TWO = "prune-blocks{ratio=0.5 importance=last}"
NESTED, PLAIN = "recover{minutes=0 steps=150 depths=2}", "recover{minutes=0 steps=150}"


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """Four blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*[Layer() for _ in range(4)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return 4 * self.head(self.layers(x))


@pytest.fixture(scope="module")
def program() -> Program:
    return traced(Net(), torch.randn(2, 8), dynamic={"x.0": "batch"})


def made(program: Program, text: str) -> Program:
    return PassManager.parse(text).run(program, PassContext(calibration=DATA)).program


def divergence(original: Program, found: Program) -> float:
    p, q = (one.run(FRESH)["output"].log_softmax(-1) for one in (original, found))
    return float(nn.functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_sub_models_are_what_the_cut_program_computes(program: Program) -> None:
    (found,) = Nested(program, [2]).outputs((FRESH["x"],), {})
    expected = made(program, FIRST_TWO).run(FRESH)["output"]
    assert_close("output", expected, found[0].detach(), EXACT)


def test_one_set_of_weights_serves_both(program: Program) -> None:
    damaged = "quantize-weights{bits=3}"
    both, only = (made(program, f"{damaged},{text}") for text in (NESTED, PLAIN))
    cut = {name: made(one, FIRST_TWO) for name, one in (("both", both), ("only", only))}
    assert divergence(program, cut["both"]) < 0.5 * divergence(program, cut["only"])
    assert divergence(program, both) < 0.5 * divergence(program, cut["both"])
    weights = both.weights()
    for name, weight in cut["both"].weights().items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("depth", [0, 4])
def test_depths_that_are_no_part(program: Program, depth: int) -> None:
    with pytest.raises(UsageError, match=f"depth {depth} is no part of 4 residual blocks"):
        made(program, f"quantize-weights{{bits=3}},recover{{steps=5 depths={depth}}}")
