"""The masking oracle: a program that was cut against the whole one with masks."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effc.ir.coupling.analysis import Coupling, analyse
from effc.ir.coupling.cutting import cut
from effc.ir.coupling.groups import OTHER, Group, groups_of
from effc.ir.coupling.kept import Kept
from effc.ir.coupling.masking import Masked
from effc.ir.program import Program
from effc.ir.testing import Tolerance, assert_close
from effc.ir.verify import verify

CLOSE = Tolerance(relative=1e-5, absolute=1e-6)


def free_groups(coupling: Coupling) -> list[Group]:
    """The groups that can be cut."""
    return [
        one for one in groups_of(coupling) if not one.reason and one.kind != OTHER and one.size > 1
    ]


def some_of(groups: list[Group], ratio: float, seed: int = 0) -> NDArray[np.int64]:
    """A random share of each group's atoms, at least one and never all."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.permutation(group.atoms)[: min(max(1, int(group.size * ratio)), group.size - 1)]
        for group in groups
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def assert_cut_equals_masked(
    program: Program, inputs: dict[str, Tensor], ratio: float = 0.3, seed: int = 0
) -> tuple[Program, list[Group]]:
    """Cut a random share of every group of a copy; returns the copy and the groups."""
    coupling = analyse(program)
    groups = free_groups(coupling)
    gone = some_of(groups, ratio, seed)
    expected = Masked(program, Kept(coupling, gone)).outputs(inputs)
    smaller = program.clone()
    own = analyse(smaller)
    cut(smaller, Kept(own, gone), "test")
    verify(smaller)
    assert smaller.signatures == program.signatures
    for name, value in smaller.run(inputs).items():
        assert_close(name, expected[name], value, CLOSE)
    return smaller, groups
