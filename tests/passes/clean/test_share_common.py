"""Share common: equal calls, sizes and weights; across methods; what is equal by accident."""

import copy

import torch
from torch import Tensor

from effc.ir.program import FORWARD, Program, copy_module
from effc.ir.testing import Function, assert_same_outputs, operators, recorded, traced
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

WEIGHT = torch.arange(6.0).reshape(2, 3)


def shared(program: Program) -> tuple[Program, PassRow]:
    report = PassManager.parse("share-common").run(program)
    return report.program, report.rows[0]


def test_equal_chains_are_shared() -> None:
    before = recorded(lambda x: (x.exp() + 1) * (x.exp() + 1) - (x.exp() + 2), x=torch.randn(3))
    after, row = shared(before)
    assert operators(after)["aten.exp.default"] == 1
    assert operators(after)["aten.add.Tensor"] == 2
    assert row.notes == {"shared": 3}
    assert_same_outputs(before, after)


def test_arguments_of_another_type_are_not_equal() -> None:
    before = recorded(lambda x: (x.cumsum(0) + 1) * (x.cumsum(0) + 1.0), x=torch.arange(3))
    after, _ = shared(before)
    assert operators(after)["aten.add.Tensor"] == 2
    assert_same_outputs(before, after)


def test_equal_sizes_are_shared() -> None:
    def sizes(x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0]) + y.new_ones(y.shape[0])

    class Sizes(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return sizes(x, y)

    inputs = (torch.randn(3, 2), torch.zeros(3))
    before = traced(Sizes(), *inputs, dynamic={"x.0": "batch", "y.0": "batch"})
    after, _ = shared(before)
    assert operators(after)["aten.sym_size.int"] == 1
    assert_same_outputs(before, after)


def test_equal_weights_become_one() -> None:
    twin = WEIGHT.clone()
    before = recorded(lambda x: x * WEIGHT + x * twin, x=torch.randn(2, 3))
    after, _ = shared(before)
    assert len(after.weights()) == 1
    assert operators(after)["aten.mul.Tensor"] == 1
    assert_same_outputs(before, after)


def test_weights_with_one_value_stay_apart() -> None:
    zeros, others = torch.zeros(3), torch.zeros(3)
    before = recorded(lambda x: x + zeros + others, x=torch.randn(2, 3))
    after, row = shared(before)
    assert not row.changed
    assert len(after.weights()) == 2


def test_undefined_tensors_are_not_shared() -> None:
    def undefined(x: Tensor) -> Tensor:
        empty = torch.ops.aten.empty.memory_format
        return x + 0 * empty([3]).nan_to_num(0) + 0 * empty([3]).nan_to_num(0)

    before = recorded(undefined, x=torch.randn(3))
    after, _ = shared(before)
    assert operators(after)["aten.empty.memory_format"] == 2


def test_methods_share_storage() -> None:
    program = recorded(lambda x: x * WEIGHT, x=torch.randn(2, 3))
    other = copy_module(program.forward)
    for name, tensor in list(other.named_buffers()):
        setattr(other, name, copy.deepcopy(tensor))
    program.methods["decode"] = other
    program.signatures["decode"] = program.signatures[FORWARD]
    assert program.weight_nbytes == 2 * WEIGHT.numel() * 4 or len(program.weights()) == 1
    after, row = shared(program)
    first, second = (
        next(iter(dict(module.named_buffers()).values())) for module in after.methods.values()
    )
    assert first is second
    assert not row.changed


def test_a_symbolic_program_keeps_its_outputs() -> None:
    module = Function(lambda x: x.view(x.shape[0], -1) + x.view(x.shape[0], -1).relu())
    before = traced(module, torch.randn(3, 2), dynamic={"x.0": "batch"})
    after, _ = shared(before)
    assert operators(after)["aten.view.default"] == 1
    assert_same_outputs(before, after)
