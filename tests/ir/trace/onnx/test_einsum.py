"""Einstein sums, spelled out as products and sums, against torch.einsum."""

import pytest
import torch

from effc.ir.errors import UnsupportedError
from effc.ir.trace.onnx.call import Call
from effc.ir.trace.onnx.matrix import TABLE

SUMS = [
    ("ij->ji", [(3, 4)]), ("ij->i", [(3, 4)]), ("i,i", [(5,), (5,)]), ("ii->", [(3, 3)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]), ("...ii->...i", [(2, 3, 3)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]), ("i,j->ij", [(3,), (4,)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]), ("ijk,k->ij", [(2, 3, 4), (4,)]),
    ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]), ("...ij,jk->...ik", [(2, 6, 3, 4), (4, 5)]),
    ("bnd,rd->bnr", [(2, 3, 4), (5, 4)]), ("ij,ik->jk", [(1, 3), (1, 4)]),
    ("...,...->...", [(2, 3), (3,)]), ("ij,kj", [(2, 3), (4, 3)]), ("ij,j->", [(2, 3), (3,)]),
]  # fmt: skip


def einsum(equation: str, *values: torch.Tensor) -> torch.Tensor:
    call = Call("Einsum", "", 12, "sum", {"equation": equation}, ["y"])
    found = TABLE["Einsum"](call, *values)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize(("equation", "shapes"), SUMS)
def test_against_torch(equation, shapes):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    torch.testing.assert_close(einsum(equation, *values), torch.einsum(equation, *values))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_determinants(size):
    x = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    call = Call("Det", "", 11, "det", {}, ["y"])
    torch.testing.assert_close(TABLE["Det"](call, x), torch.linalg.det(x))


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ijk->i", "i->i"])
def test_equations_that_do_not_fit(equation):
    with pytest.raises(UnsupportedError, match="Einsum at sum: the equation"):
        einsum(equation, torch.ones(2, 3))
