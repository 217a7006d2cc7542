"""Products that pass over blocks of zeros against PyTorch, and what they are packed from."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from effc.codegen.pack import PackBlocks
from effc.ir.ops.blocks import linear_blocks, linear_blocks_half, linear_blocks_integer
from effc.ir.opspec import op_name
from effc.ir.target import Target
from effc.ir.testing import EXACT, Tolerance
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.lower.pipeline import SPELL_OUT
from effc.passes.manager import PassManager

SUMS = Tolerance(relative=2e-5)
KINDS = ["float32", "bfloat16", "uint8"]
few = settings(
    max_examples=4,
    phases=[Phase.generate],  # a failing model is not built again and again to shrink it
    suppress_health_check=list(HealthCheck),
)


def sparse(columns: int, features: int, density: float, depth: int, seed: int) -> torch.Tensor:
    """Blocks of 8 by `depth` stay with a probability; some panels lose everything."""
    made = np.random.default_rng(seed)
    shape = -(-columns // 8), -(-features // depth)
    held = (made.random(shape) < density) & (made.random((shape[0], 1)) < 0.9)
    mask = held.repeat(8, 0).repeat(depth, 1)[:columns, :features]
    weight = made.standard_normal((columns, features)) * mask
    return torch.from_numpy(weight.astype(np.float32))


class Product(nn.Module):
    """A product with an epilogue; the operand is rounded where it must be."""

    def __init__(self, weight: torch.Tensor, kind: str, zero: int | None = None) -> None:
        super().__init__()
        self.kind = kind
        if kind == "uint8":
            weight = (weight * 40).round().clamp(-127, 127).to(torch.int8)
            self.zero = None if zero is None else nn.Buffer(torch.tensor(zero, dtype=torch.int32))
        elif kind == "bfloat16":
            weight = weight.to(torch.bfloat16)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.linspace(-1, 1, len(weight)))

    def forward(self, x):
        if self.kind == "uint8":
            codes = x.to(torch.uint8)
            return (linear_blocks_integer(codes, self.weight, self.zero) * 2).float() + self.bias
        if self.kind == "bfloat16":
            return torch.relu(linear_blocks_half(x.to(torch.bfloat16), self.weight) + self.bias)
        return torch.relu(linear_blocks(x, self.weight) + self.bias)


def operand(kind: str, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if kind == "uint8":
        return torch.randint(0, 256, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def tolerance(kind: str) -> Tolerance:
    return EXACT if kind == "uint8" else SUMS


DEPTHS = {"float32": 1, "bfloat16": 2, "uint8": 4}


@pytest.mark.parametrize("kind", KINDS)
@few
@given(
    rows=st.integers(1, 40), features=st.integers(1, 150), columns=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_random_sizes(compiled, target, kind, rows, features, columns, density, seed):
    features += features % 2 if kind == "bfloat16" else 0
    weight = sparse(columns, features, density, DEPTHS[kind], seed)
    zero = seed if kind == "uint8" and seed % 2 else None
    x = operand(kind, rows, features)
    compiled(Product(weight, kind, zero), {"x": x}, target).check({"x": x}, tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_symbolic_rows(compiled, target, kind):
    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 1: dim("length", min=1, max=64)}}
    model = Product(sparse(50, 64, 0.4, 4, 1), kind)
    built = compiled(model, {"x": operand(kind, 2, 9, 64)}, target, dynamic)
    for shape in ((1, 1), (1, 2), (1, 5), (1, 13), (8, 64), (3, 11)):
        built.check({"x": operand(kind, *shape, 64)}, tolerance(kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_blocks_that_are_packed(dtype):
    weight = torch.zeros(20, 10, dtype=dtype)
    weight[3, 2], weight[7, 9], weight[17, 0] = 1, 2, 3
    weight[4, 5] *= -1  # -0.0 where there are signs

    def packed(part: str) -> np.ndarray:
        found = PackBlocks(0, 16, 4, 2, part)([weight])
        is_bits = dtype == torch.bfloat16 and part == "panels"
        return torch.from_numpy(found).view(dtype).float().numpy() if is_bits else found

    assert packed("starts").tolist() == [0, 2, 4]
    assert packed("places").tolist() == [0, 8, 0, 0]
    values = packed("panels")
    assert values.shape == (4, 16, 4)
    assert (values[0, 3, 2], values[1, 7, 1], values[2, 1, 0]) == (1, 2, 3)
    assert np.count_nonzero(values) == 3


@pytest.mark.parametrize(("pattern", "after"), [("16x1", ""), ("16x4", ",quantize")])
def test_sparsified_layers_get_it(compiled, pattern, after):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32))
    sparsify = f"sparsify-weights{{pattern={pattern} ratio=0.6 method=magnitude}}"
    x = torch.randn(9, 48)
    built = compiled(net, {"input": x}, passes=f"{CLEAN},{sparsify}{after}")
    context = PassContext(target=Target.parse("native"))
    lowered = PassManager.parse(SPELL_OUT).run(built.program, context).program
    found = [op_name(node) for node in lowered.forward.graph.nodes]
    assert sum("linear_blocks" in name for name in found) == 2
    built.check({"input": x}, Tolerance(relative=2e-2) if after else SUMS)
