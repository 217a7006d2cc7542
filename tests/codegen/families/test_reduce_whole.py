"""Sums, means and extrema against PyTorch: whole tensors, images, pieces, several at once, NaN."""

import pytest
import torch
from torch import nn

from effc.codegen.families.reduce_whole import PieceSchedule
from effc.ir.testing import EXACT, Tolerance

PIECE = PieceSchedule().piece

SUMS = Tolerance(relative=1e-5)
DIMS = [(0,), (1,), (-1,), (0, 1), (1, 2), (0, 2), (0, 1, 2)]


class Every(nn.Module):
    """Every reduction over some dimensions."""

    def __init__(self, dims, keepdim=False, has_mean=True) -> None:
        super().__init__()
        self.dims, self.keepdim, self.has_mean = dims, keepdim, has_mean

    def forward(self, x):
        found = [x.sum(self.dims, self.keepdim)]
        found += [f(x, self.dims, self.keepdim) for f in (torch.amax, torch.amin)]
        return [*found, x.mean(self.dims, self.keepdim)] if self.has_mean else found


class Truths(nn.Module):
    def forward(self, x):
        return [
            x.any(), x.all(), x.any(1), x.all(0, keepdim=True), x.any(-1), x.all(-1, keepdim=True),
            (x > 0).sum(), (x > 0).sum(-1, keepdim=True), (x > 1).amax((0, 2)), (x > -9).amin(-1),
        ]  # fmt: skip


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("keepdim", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_dimensions(compiled, dims, keepdim):
    x = random(3, 5, 17)
    compiled(Every(dims, keepdim), {"x": x}).check({"x": x}, SUMS)


@pytest.mark.parametrize("length", [1, 15, 65, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
def test_pieces(compiled, target, length):
    x = random(3, length, seed=length)
    compiled(Every((0, 1)), {"x": x}, target).check({"x": x}, SUMS)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int32, torch.int8, torch.uint8, torch.float64, torch.float16],
    ids=str,
)
def test_whole_numbers_are_exact(compiled, dtype, threads):
    x = (random(2, 3, 2000) * 3).round().abs().to(dtype)
    model = compiled(Every((1, 2), has_mean=False), {"x": x}, threads=threads)
    model.check({"x": x}, EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool, torch.uint8], ids=str)
def test_truths(compiled, target, dtype):
    x = (random(3, 5, 33) * 0.6).to(dtype)
    x[1], x[2, 3] = 0, 1
    if dtype.is_floating_point:
        x[0, 0, 0], x[0, 1, 0] = 0.25, float("nan")
    compiled(Truths(), {"x": x}, target).check({"x": x}, EXACT)


@pytest.mark.parametrize("dims", [(2,), (1,), (0, 1, 2), (0, 2)], ids=str)
def test_nan_wins_wherever_it_stands(compiled, target, dims):
    """Also past the last whole vector, and where numbers follow."""
    model = compiled(Every(dims, keepdim=True), {"x": random(2, 3, 70)}, target)
    for place in (0, 3, 16, 63, 64, 69):
        x = random(2, 3, 70)
        x[1, 2, place], x[0, 0, 5] = float("nan"), float("inf")
        model.check({"x": x}, SUMS)


def test_a_reduction_alone_is_stored(compiled, target):
    """Of rows, with nothing that reads it in the region."""

    class Alone(nn.Module):
        def forward(self, x, y):
            return x.amax(-1, keepdim=True), y.mean(-1, keepdim=True)

    inputs = {"x": random(4, 9), "y": random(3, 40)}
    compiled(Alone(), inputs, target).check(inputs, SUMS)


def test_views_and_what_follows(compiled, target):
    class Surrounded(nn.Module):
        def forward(self, x, y):
            part = x.permute(2, 0, 1)[1:9, :, ::2]
            scaled = x.mean((1, 2), keepdim=True) * 2 + y
            return part.sum((0, 2)), scaled, torch.relu(x.sum()) + y, x[:1].expand(4, -1, -1).sum()

    inputs = {"x": random(3, 6, 17), "y": random(3, 1, 1, seed=1)}
    compiled(Surrounded(), inputs, target).check(inputs, SUMS)


def test_results_that_are_reduced_again(compiled, target):
    class Chain(nn.Module):
        def forward(self, x):
            centred = x - x.mean()
            return centred / centred.square().mean((1, 2), keepdim=True).sqrt(), centred.amax()

    x = random(3, 20, 31)
    compiled(Chain(), {"x": x}, target).check({"x": x}, SUMS)


def test_symbolic_sizes(compiled, target):
    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 2: dim("length", min=1, max=5000)}}

    class Several(nn.Module):
        def forward(self, x):
            return x.sum(), x.mean((1, 2)), x.amax((0, 2), keepdim=True), x.amin(2), (x > 0).any(0)

    model = compiled(Several(), {"x": random(3, 4, 9)}, target, dynamic)
    for shape in ((1, 4, 1), (8, 4, 5000), (2, 4, 1024), (3, 4, 1365), (1, 4, 17)):
        model.check({"x": random(*shape, seed=shape[2])}, SUMS)
