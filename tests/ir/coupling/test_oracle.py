"""Cut programs equal whole ones with what goes masked to zero, for every kind of coupling."""

import pytest
import torch
from oracle import assert_cut_equals_masked, free_groups
from small_nets import NETS, program_named

from effc.ir.coupling.analysis import analyse
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager


@pytest.mark.parametrize("is_clean", [False, True], ids=["traced", "clean"])
@pytest.mark.parametrize("name", NETS)
def test_cut_equals_masked(name: str, is_clean: bool) -> None:
    program, x = program_named(name)
    if is_clean:
        program = PassManager.parse(CLEAN).run(program).program
    inputs = {program.signature.inputs[0].name: x}
    whole = program.run(inputs)
    for seed, ratio in ((0, 0.3), (1, 0.6)):
        smaller, groups = assert_cut_equals_masked(program, inputs, ratio, seed)
        assert groups
        assert smaller.weight_nbytes < program.weight_nbytes
        changed = smaller.run(inputs)
        assert any(not torch.equal(whole[key], changed[key]) for key in whole)


@pytest.mark.parametrize("name", NETS)
def test_a_program_that_was_cut_can_be_cut_again(name: str) -> None:
    program, x = program_named(name)
    inputs = {program.signature.inputs[0].name: x}
    smaller, _ = assert_cut_equals_masked(program, inputs, 0.3)
    again, groups = assert_cut_equals_masked(smaller, inputs, 0.3)
    assert {one.size for one in free_groups(analyse(again))} != {one.size for one in groups}
