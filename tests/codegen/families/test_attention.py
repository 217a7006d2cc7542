"""Attention against PyTorch: masks, causal, grouped queries, odd and symbolic sizes."""

import pytest
import torch
from torch import nn

from effc.ir.testing import Tolerance

F = nn.functional
CLOSE = Tolerance(relative=3e-6)
SIZES = [
    (2, 3, 3, 128, 128, 32, 32),
    (1, 2, 2, 7, 13, 16, 20),
    (2, 4, 2, 19, 19, 8, 72),
    (1, 1, 1, 1, 5, 64, 64),
]


class Attention(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.settings) * 2


def operands(sizes):
    batch, heads, key_heads, length, source, features, columns = sizes
    return {
        "q": torch.randn(batch, heads, length, features),
        "k": torch.randn(batch, key_heads, source, features),
        "v": torch.randn(batch, key_heads, source, columns),
    }


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_attention(compiled, target, sizes, settings):
    inputs = operands(sizes)
    grouped = {"enable_gqa": True} if sizes[1] != sizes[2] else {}
    compiled(Attention(**settings, **grouped), inputs, target).check(inputs, CLOSE)


@pytest.mark.parametrize("kind", ["keys", "square", "bias"])
@pytest.mark.parametrize("sizes", [SIZES[0], SIZES[1]], ids=str)
def test_masked_attention(compiled, target, sizes, kind):
    inputs = operands(sizes)
    batch, length, source = sizes[0], sizes[3], sizes[4]
    generator = torch.Generator().manual_seed(0)
    if kind == "bias":
        mask = torch.randn(batch, 1, length, source, generator=generator)
    else:
        rows = length if kind == "square" else 1
        mask = torch.rand(batch, 1, rows, source, generator=generator) > 0.4
        mask[..., 0] = True
    inputs["mask"] = mask
    compiled(Attention(), inputs, target).check(inputs, CLOSE)


def test_symbolic_attention(compiled, target):
    dim = torch.export.Dim
    batch, length = dim("batch", min=1, max=8), dim("length", min=1, max=100)
    sizes = {0: batch, 2: length}
    example = {name: torch.randn(2, 4, 9, 32) for name in "qkv"}
    dynamic = {**dict.fromkeys("qkv", sizes), "mask": None}
    model = compiled(Attention(is_causal=True), {**example, "mask": None}, target, dynamic)
    for shape in ((1, 1), (2, 5), (3, 64), (1, 100)):
        inputs = {name: torch.randn(shape[0], 4, shape[1], 32) for name in "qkv"}
        model.check(inputs, CLOSE)


def test_attention_between_transposes_copies_nothing(compiled, target):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projections = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = (p(x).view(batch, length, 3, 8).transpose(1, 2) for p in self.projections[:3])
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            return self.projections[3](mixed.reshape(batch, length, 24))

    x = torch.randn(2, 10, 24)
    model = compiled(Heads(), {"x": x}, target)
    model.check({"x": x}, Tolerance(relative=1e-5))
    families = [name.split()[0] for name, _ in model.model.session.profile({"x": x.numpy()})]
    assert families == ["matmul"] * 3 + ["attention"] * 2 + ["matmul"]
