"""How much work a kernel has, and which kernels are too small to be shared."""

import pytest

from effc.codegen.work import TINY_MACS, TINY_NBYTES, Work
from effc.ir.symbols import Size, named


@pytest.mark.parametrize(
    ("macs", "nbytes", "is_tiny"),
    [
        (0, 64, True),
        (TINY_MACS, TINY_NBYTES, True),
        (TINY_MACS + 1, 64, False),
        (0, TINY_NBYTES + 1, False),
        (named("batch"), 64, False),
        (0, named("batch"), False),
    ],
)
def test_tiny_is_little_of_both_and_known(macs: Size, nbytes: Size, is_tiny: bool) -> None:
    assert Work(macs, nbytes).is_tiny is is_tiny
