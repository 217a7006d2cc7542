"""A feed-forward block, a small convolutional net, and ways to quantize and compare them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.provenance import label
from effc.ir.testing import traced
from effc.passes.base import PassContext
from effc.passes.bits.layers import Wanted, select
from effc.passes.bits.metrics.parts import parts_of
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.quantize import Quantize
from effc.passes.manager import PassManager


class Feed(nn.Module):
    """Two linears read one value, which is added to the result, too."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(width)
        self.left = nn.Linear(width, 24)
        self.right = nn.Linear(width, 24, bias=False)
        self.down = nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(functional.gelu(self.left(x)) * self.right(x))


class Images(nn.Module):
    """Stem, pooling, a residual block whose shortcut is a convolution, a depthwise one, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.first = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x).relu())
        x = (self.shortcut(x) + self.second(self.first(x).relu())).relu()
        x = (x + self.depthwise(x)).relu()
        return self.head(x.mean((2, 3)))


class Words(nn.Module):
    """A table tied to the head, a hidden layer between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(512, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 512, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.table(ids))))


@pytest.fixture(scope="session")
def words() -> Program:
    return traced(Words(), torch.randint(0, 512, (2, 5)), dynamic={"ids.0": "batch"})


@pytest.fixture(scope="session")
def feed() -> Program:
    return traced(Feed(), torch.randn(2, 3, 16), dynamic={"x.0": "batch", "x.1": "tokens"})


@pytest.fixture(scope="session")
def images() -> Program:
    return traced(Images(), torch.randn(2, 3, 16, 16), dynamic={"x.0": "batch"})


@pytest.fixture(scope="session")
def batches() -> Callable[..., list[dict[str, Tensor]]]:
    """Batches of an input `x` of a shape."""

    def make(shape: tuple[int, ...], count: int = 3) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        return [{"x": torch.randn(shape, generator=generator)} for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[Program, dict[str, Any]]]:
    """Quantize a program on calibration data; gives the result and the notes of its layers."""

    def quantize(
        program: Program, data: Any = None, **options: Any
    ) -> tuple[Program, dict[str, Any]]:
        report = PassManager((Quantize(**options),)).run(program, PassContext(calibration=data))
        return report.program, report.rows[0].notes["layers"]

    return quantize


@pytest.fixture(scope="session")
def layer() -> Callable[[Program, str], fx.Node]:
    """The linear or convolution of a name."""

    def find(program: Program, name: str) -> fx.Node:
        kinds = ("aten.linear.default", "aten.conv2d.default")
        nodes = [n for n in program.forward.graph.nodes if op_name(n) in kinds]
        (found,) = [node for node in nodes if label(node) == name]
        return found

    return find


@pytest.fixture(scope="session")
def calls() -> Callable[[Program, str], list[fx.Node]]:
    """All calls of an operator."""
    return lambda program, name: [n for n in program.forward.graph.nodes if op_name(n) == name]


@pytest.fixture(scope="session")
def error_db() -> Callable[[Program, Program, dict[str, Tensor]], float]:
    """Signal-to-noise ratio of the outputs of one program beside those of another."""

    def measure(before: Program, after: Program, inputs: dict[str, Tensor]) -> float:
        expected, found = before.run(inputs)["output"], after.run(inputs)["output"]
        noise = (expected - found).square().sum() / expected.square().sum()
        return -10 * float(torch.log10(noise))

    return measure


@pytest.fixture(scope="session")
def study_of() -> Callable[..., Study]:
    """A program under study, with normal or integer inputs."""

    def make(program: Program, **settings: Any) -> Study:
        generator = torch.Generator().manual_seed(1)
        (spec,) = program.signature.inputs
        shape = [size if isinstance(size, int) else 4 for size in spec.shape]
        data = [
            {spec.name: torch.randn(shape, generator=generator)}
            if spec.dtype.is_floating_point
            else {spec.name: torch.randint(0, 512, shape, generator=generator)}
            for _ in range(2)
        ]
        ctx = PassContext(**{"calibration": data, **settings})
        selection = select(program, "forward", ctx, Wanted())
        return Study(program, parts_of(program, selection.layers), ctx)

    return make
