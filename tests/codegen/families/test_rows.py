"""Norms, softmax, run-time quantization and other reductions along rows."""

import pytest
import torch
from torch import nn

from effc.ir.testing import EXACT, Tolerance

F = nn.functional
CLOSE = Tolerance(relative=3e-6)


class Norms(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.layer, self.rms = nn.LayerNorm(length), nn.RMSNorm(length)
        nn.init.normal_(self.layer.weight)
        nn.init.normal_(self.layer.bias)

    def forward(self, x, y):
        z = x + y
        return self.layer(z), self.rms(z) * 2, z, F.softmax(x, -1), F.log_softmax(y, -1)


@pytest.mark.parametrize("length", [1, 7, 16, 100, 384, 1000])
def test_norms_and_softmax(compiled, target, length):
    inputs = {"x": torch.randn(2, 5, length) * 3, "y": torch.randn(2, 5, length)}
    tolerance = CLOSE if length > 1 else Tolerance(relative=1e-3, absolute=1e-3)
    compiled(Norms(length), inputs, target).check(inputs, tolerance)


def test_symbolic_rows(compiled, target):
    class Softmax(nn.Module):
        def forward(self, x):
            return F.softmax(x, -1), x.amax(-1, keepdim=True)

    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 1: dim("length", min=1, max=300)}}
    model = compiled(Softmax(), {"x": torch.randn(3, 40)}, target, dynamic)
    for batch, length in ((1, 1), (2, 15), (8, 300), (3, 64)):
        model.check({"x": torch.randn(batch, length)}, CLOSE)


@pytest.mark.parametrize("length", [3, 64, 101])
def test_dynamic_quantization_is_exact(compiled, target, length):
    class Dynamic(nn.Module):
        def forward(self, x):
            return torch.ops.effc.quantize_dynamic(x, [-1], 0, 255, torch.uint8)

    x = torch.randn(4, 9, length) * 5
    x[0, 0] = 0
    x[0, 1] = x[0, 1].abs()
    x[0, 2] = -x[0, 2].abs()
    compiled(Dynamic(), {"x": x}, target).check({"x": x}, EXACT)


def test_dynamic_quantization_of_images_is_exact(compiled, target):
    class Dynamic(nn.Module):
        def forward(self, x):
            return torch.ops.effc.quantize_dynamic(x, [1, 2, 3], 0, 255, torch.uint8)

    x = torch.randn(3, 5, 7, 6)
    compiled(Dynamic(), {"x": x}, target).check({"x": x}, EXACT)


def test_group_norm_and_other_reductions(compiled, target):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.group = nn.GroupNorm(4, 12)
            nn.init.normal_(self.group.weight)

        def forward(self, x):
            return self.group(x), x.mean((2, 3)), x.amax(1), x.sum(0, keepdim=True), x.mean()

    x = torch.randn(2, 12, 5, 7)
    compiled(Mixed(), {"x": x}, target).check({"x": x}, Tolerance(relative=1e-5))


def test_reductions_spelled_out(compiled, target):
    class Spread(nn.Module):
        def forward(self, x, y):
            spread = (x.var(-1), x.std((1, 2), keepdim=True), x.var(1, correction=0), x.std())
            products = (x.prod(1), x.prod(-1, keepdim=True), x.prod())
            return (
                spread,
                torch.var_mean(x, 2),
                products,
                x.logsumexp(-1),
                x.logsumexp((0, 1), True),
            )

    x = torch.randn(3, 6, 17, generator=torch.Generator().manual_seed(0))
    y = x * 30
    y[0, 0] = float("-inf")
    inputs = {"x": x, "y": y}
    compiled(Spread(), inputs, target).check(inputs, Tolerance(relative=1e-5))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda x: F.max_pool2d(x, 3, 1, 1, dilation=1),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
        lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
        lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    ],
)
def test_pooling(compiled, target, pool):
    class Pool(nn.Module):
        def forward(self, x):
            return pool(x)

    x = torch.randn(2, 20, 13, 15)
    compiled(Pool(), {"x": x}, target).check({"x": x}, CLOSE)


class Windows(nn.Module):
    """Rolled windows of normalised rows, and back in front of the next norm."""

    def forward(self, x):
        rolled = F.layer_norm(x, (33,)).view(-1, 4, 6, 33).roll((-1, -2), (1, 2))
        windows = rolled.view(-1, 2, 2, 3, 2, 33).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 33)
        back = F.rms_norm(windows, (33,)).view(-1, 2, 3, 2, 2, 33).permute(0, 1, 3, 2, 4, 5)
        added = x + back.reshape(-1, 4, 6, 33).roll((1, 2), (1, 2)).view(-1, 24, 33)
        return added, F.layer_norm(added, (33,))


def test_selected_rows(compiled, target):
    batch = torch.export.Dim("batch", min=1, max=8)
    x = torch.randn(2, 24, 33, generator=torch.Generator().manual_seed(0))
    built = compiled(Windows(), {"x": x}, target=target, dynamic={"x": {0: batch}})
    for size in (1, 2):
        built.check({"x": x[:size]}, CLOSE)
