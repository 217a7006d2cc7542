"""Running sums and places of extrema against PyTorch: every dimension, type, ties, NaN."""

import pytest
import torch
from torch import nn

from effc.ir.errors import UnsupportedError
from effc.ir.testing import EXACT, Tolerance

SUMS = Tolerance(relative=1e-5)
SHAPES = [(1,), (7,), (3, 5, 17), (2, 1, 33), (1, 1)]


class Sums(nn.Module):
    def forward(self, x):
        return [x.cumsum(dim) for dim in range(x.dim())]


class Places(nn.Module):
    def forward(self, x):
        dims = range(-x.dim(), 0)
        return [
            f(x, dim, k)
            for f in (torch.argmax, torch.argmin)
            for dim in dims
            for k in (False, True)
        ]


class Surrounded(nn.Module):
    """Operators before and after, on operands that are views."""

    def forward(self, x):
        part = x.transpose(0, -1)[1:, :, ::2]
        return (part + 1).cumsum(1) * 2, x[:1].expand(4, -1, -1).cumsum(0), part.argmax(0) + 1


def numbers(shape, dtype, seed=0):
    """Small whole numbers, so that sums are exact and extrema come more than once."""
    generator = torch.Generator().manual_seed(seed)
    low = 0 if dtype in (torch.uint8, torch.bool) else -9
    return torch.randint(low, 10 if dtype != torch.bool else 2, shape, generator=generator).to(
        dtype
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums(compiled, target, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    compiled(Sums(), {"x": x}, target).check({"x": x}, SUMS)


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool, torch.float64, torch.float16],
    ids=str,
)
def test_sums_of_whole_numbers_are_exact(compiled, target, dtype):
    x = numbers((3, 5, 17), dtype)
    compiled(Sums(), {"x": x}, target).check({"x": x}, EXACT)


def test_sums_of_a_given_type(compiled):
    class Wide(nn.Module):
        def forward(self, x):
            return x.cumsum(1, dtype=torch.float64), x.cumsum(0, dtype=torch.int32)

    x = numbers((4, 9), torch.float32)
    compiled(Wide(), {"x": x}).check({"x": x}, EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.int8], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_places_of_the_first_extremum(compiled, shape, dtype):
    x = numbers(shape, dtype)
    compiled(Places(), {"x": x}).check({"x": x}, EXACT)


def test_nan_and_infinities_in_places(compiled, target):
    x = torch.randn(6, 19, generator=torch.Generator().manual_seed(2))
    nan, infinity = float("nan"), float("inf")
    x[0, 7] = x[0, 3] = x[2, 0] = x[3, 18] = nan
    x[1, 5], x[3, 2], x[4] = infinity, -infinity, nan
    compiled(Places(), {"x": x}, target).check({"x": x}, EXACT)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_views_and_neighbours(compiled, threads):
    x = numbers((6, 5, 17), torch.float32)
    compiled(Surrounded(), {"x": x}, threads=threads).check({"x": x}, EXACT)


def test_symbolic_sizes(compiled, target):
    dim = torch.export.Dim
    dynamic = {"x": {0: dim("batch", min=1, max=8), 1: dim("length", min=1, max=70)}}

    class Both(nn.Module):
        def forward(self, x):
            return x.cumsum(0), x.cumsum(1), x.argmax(1), x.argmin(0, keepdim=True)

    model = compiled(Both(), {"x": numbers((3, 9), torch.float32)}, target, dynamic)
    for seed, shape in enumerate([(1, 1), (1, 70), (8, 1), (8, 70), (3, 31)]):
        model.check({"x": numbers(shape, torch.float32, seed)}, EXACT)


def test_an_extremum_of_all_dimensions_is_refused(compiled):
    class Whole(nn.Module):
        def forward(self, x):
            return x.argmax()

    with pytest.raises(UnsupportedError, match=r"aten\.argmax\.default over all dimensions"):
        compiled(Whole(), {"x": torch.ones(2, 3)})
