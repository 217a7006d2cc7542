"""Golden texts of static quantization: the program after `quantize` on fixed calibration data.

`pytest tests/passes/bits/test_static_golden.py --rewrite-golden` writes the texts anew.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import BOUND, assert_same_outputs, random_inputs, traced
from effc.ir.text import program_text
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

FOLDER = Path(__file__).parents[2] / "golden" / "quantize" / "static"


class Residual(nn.Module):
    """Pooling on codes, a convolution on the side, an identity shortcut, a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.main = nn.Conv2d(4, 4, 3, padding=1)
        self.side = nn.Conv2d(4, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x).relu())
        x = (self.main(x) + self.side(x)).relu()
        x = x + self.depthwise(x)
        return self.head(x.mean((2, 3)))


class Branches(nn.Module):
    """Halves of a split, a concatenation, nearest upsampling, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 2, 2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).relu().chunk(2, dim=1)
        both = torch.cat([self.left(left).relu(), right], dim=1)
        large = nn.functional.interpolate(both, scale_factor=2.0)
        return self.head(self.last(large)[:, :, :4, :4].flatten(1))


class Feed(nn.Module):
    """Two linears share a value that is added to the result in float."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.query(x) * self.key(x)


IMAGES = {"x.0": "batch"}
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, str]]] = {
    "residual": (Residual, torch.ones(2, 3, 8, 8), IMAGES),
    "branches": (Branches, torch.ones(2, 3, 8, 8), IMAGES),
    "feed": (Feed, torch.ones(2, 3, 8), {"x.0": "batch", "x.1": "tokens"}),
}


def numbered(text: str) -> str:
    """Replace hashes of weights by the order they appear in: rounding differs between machines."""
    seen: dict[str, str] = {}
    return re.sub(r"#[0-9a-f]{12}", lambda found: seen.setdefault(found[0], f"#{len(seen)}"), text)


def quantized(before: Program) -> Program:
    data = [random_inputs(before, {"batch": 4}, seed=seed) for seed in range(3)]
    manager = PassManager.parse("canonicalize,quantize{activations=static}")
    return manager.run(before, PassContext(calibration=data)).program


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    make, example, dynamic = CASES[name]
    torch.manual_seed(0)
    before = traced(make(), example, dynamic=dynamic)
    after = quantized(before)
    found, path = numbered(program_text(after)), FOLDER / f"{name}.txt"
    if request.config.getoption("--rewrite-golden"):
        path.write_text(found)
    assert found == path.read_text()
    assert_same_outputs(before, after, tolerance=BOUND(0.05))
