"""What follows an anchor in its kernel, also where it cannot be computed as vectors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from effc.ir.testing import EXACT, Tolerance

F = nn.functional
CLOSE = Tolerance(relative=1e-5)
Epilogue = Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]
EPILOGUES: dict[str, Epilogue] = {
    "vector": lambda x, y: F.silu(x) * 0.5 + y,
    "library": lambda x, y: x.sin() * y,
    "library-of-two": lambda x, y: torch.atan2(x, y) + x,
    "permuted": lambda x, y: (x * 2).transpose(1, -1).contiguous(),
    "permuted-operand": lambda x, y: x + y.transpose(-1, -2).contiguous().transpose(-1, -2),
    "column": lambda x, y: x * y[..., :1],
    "row": lambda x, y: x * y[:1, :1],
    "predicate": lambda x, y: ((x > y), (x > 0).float() * x),
    "codes": lambda x, y: (x * 10).round().clamp(-100, 100).to(torch.int8),
    "wide": lambda x, y: x.double() * 0.5,
    "half": lambda x, y: x.half(),
    "several": lambda x, y: (x, x.relu() + y, x.transpose(-1, -2) + 1),
}


class Anchored(nn.Module):
    """An anchor per epilogue, so that each has a kernel of its own."""

    def __init__(self, make: Callable[[], nn.Module], names: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.anchors = nn.ModuleList(make() for _ in names)
        self.names = names

    def forward(self, x, y):
        found = []
        for anchor, name in zip(self.anchors, self.names, strict=True):
            results = EPILOGUES[name](anchor(x), y)
            found += results if isinstance(results, tuple) else [results]
        return found


class Product(nn.Module):
    def forward(self, x):
        return x @ x.transpose(-1, -2)


class Attention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


ANCHORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(13, 21), (2, 5, 13), (2, 5, 21)),
    "conv": (lambda: nn.Conv2d(3, 19, 3, padding=1), (2, 3, 7, 9), (2, 19, 7, 9)),
    "depthwise": (lambda: nn.Conv2d(19, 19, 3, groups=19), (1, 19, 8, 9), (1, 19, 6, 7)),
    "matmul": (Product, (2, 9, 6), (2, 9, 9)),
    "attention": (Attention, (1, 3, 11, 20), (1, 3, 11, 20)),
}


def inputs_of(anchor: str) -> dict[str, Tensor]:
    _, shape, result = ANCHORS[anchor]
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(shape, generator=generator),
        "y": torch.randn(result, generator=generator),
    }


COARSE = {"codes", "half"}  # rounding turns a last-bit difference into a whole step


@pytest.mark.parametrize("anchor", ANCHORS)
def test_epilogues(compiled, target, anchor):
    inputs = inputs_of(anchor)
    module = Anchored(ANCHORS[anchor][0], [name for name in EPILOGUES if name not in COARSE])
    compiled(module, inputs, target).check(inputs, CLOSE)


@pytest.mark.parametrize("anchor", ["linear", "conv"])
def test_coarse_results(compiled, target, anchor):
    """Whole numbers, so that sums are exact in any order."""
    inputs = {name: (value * 3).round() for name, value in inputs_of(anchor).items()}
    module = Anchored(ANCHORS[anchor][0], ["codes", "wide", "half", "predicate"])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_((parameter * 8).round())
    compiled(module, inputs, target).check(inputs, EXACT)


@pytest.mark.parametrize("threads", [1, 3])
def test_symbolic_strides(compiled, target, threads):
    """A result stored along a dimension whose stride is only known at run time."""
    dim = torch.export.Dim("length", min=1, max=64)
    names = ["library", "permuted", "permuted-operand", "several"]
    module = Anchored(lambda: nn.Linear(13, 21), names)
    dynamic = {"x": {1: dim}, "y": {1: dim}}
    model = compiled(module, inputs_of("linear"), target, dynamic, threads=threads)
    for length in (1, 2, 17, 64):
        model.check({"x": torch.randn(2, length, 13), "y": torch.randn(2, length, 21)}, CLOSE)
