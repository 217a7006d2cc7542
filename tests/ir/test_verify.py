"""Verify: one broken program per rule, with the message it gives."""

from collections.abc import Callable

import pytest
import torch
from torch import fx

from effc.ir.errors import VerifyError
from effc.ir.program import Program, Signature, set_attribute
from effc.ir.testing import recorded
from effc.ir.verify import is_scalar, unknown_operators, verify

aten = torch.ops.aten
WEIGHT = torch.arange(3.0)


def sound() -> Program:
    return recorded(lambda x: (x * WEIGHT).relu(), x=torch.ones(2, 3))


def nodes(program: Program) -> dict[str, fx.Node]:
    return {node.name: node for node in program.forward.graph.nodes}


def test_a_sound_program_passes() -> None:
    program = sound()
    verify(program)
    assert list(nodes(program)) == ["x_1", "_tensor_constant0", "mul", "relu", "output"]


def use_before_definition(program: Program) -> None:
    found = nodes(program)
    found["mul"].prepend(found["relu"])


def in_place(program: Program) -> None:
    nodes(program)["relu"].target = aten.relu_.default


def method_call(program: Program) -> None:
    relu = nodes(program)["relu"]
    relu.op, relu.target = "call_method", "relu"


def no_value(program: Program) -> None:
    del nodes(program)["mul"].meta["val"]


def missing_weight(program: Program) -> None:
    delattr(program.forward, "_tensor_constant0")


def weight_that_is_no_tensor(program: Program) -> None:
    del program.forward._tensor_constant0
    program.forward._tensor_constant0 = 3


def other_weight(program: Program) -> None:
    set_attribute(program.forward, "_tensor_constant0", torch.ones(4))


def input_without_signature(program: Program) -> None:
    made = program.signature
    program.signatures["forward"] = Signature((*made.inputs, *made.inputs), made.outputs)


def other_output(program: Program) -> None:
    made = program.signature
    program.signatures["forward"] = Signature(made.inputs, made.inputs)
    nodes(program)["output"].args = ((nodes(program)["_tensor_constant0"],),)


def no_tensor_output(program: Program) -> None:
    nodes(program)["relu"].meta["val"] = 3


def wrong_shape(program: Program) -> None:
    nodes(program)["mul"].meta["val"] = nodes(program)["mul"].meta["val"].new_empty(2, 4)


def impossible_call(program: Program) -> None:
    mul = nodes(program)["mul"]
    mul.target, mul.args = aten.mm.default, (mul.args[0], mul.args[0])


BROKEN: list[tuple[Callable[[Program], None], str]] = [
    (
        use_before_definition,
        "test.forward: Argument 'mul' of Node 'relu' was used before it has been defined! "
        "Please check that Nodes in the graph are topologically ordered",
    ),
    (in_place, "test.forward: relu calls the in-place operator aten.relu_.default"),
    (method_call, "test.forward: relu is a call_method node"),
    (no_value, "test.forward: mul has no value description"),
    (
        missing_weight,
        "test.forward: Node _tensor_constant0 target _tensor_constant0 references nonexistent "
        "attribute _tensor_constant0",
    ),
    (
        weight_that_is_no_tensor,
        "test.forward: weight _tensor_constant0 does not exist: "
        "_tensor_constant0 is a int, not a tensor",
    ),
    (
        other_weight,
        "test.forward: weight _tensor_constant0 is (torch.float32, (4,)), "
        "its node says (torch.float32, (3,))",
    ),
    (input_without_signature, "test.forward: has 1 inputs, its signature 2"),
    (other_output, "test.forward: x is torch.float32[3], its signature says x: f32[2, 3]"),
    (no_tensor_output, "test.forward: output is not a tensor"),
    (
        wrong_shape,
        "test.forward: mul (aten.mul.Tensor) says torch.float32[2,4], "
        "propagation gives torch.float32[2,3]",
    ),
    (
        impossible_call,
        "test.forward: shapes do not propagate: a and b must have same reduction dim",
    ),
]


@pytest.mark.parametrize(
    ("break_it", "message"), BROKEN, ids=lambda entry: getattr(entry, "__name__", "")
)
def test_broken_programs(break_it: Callable[[Program], None], message: str) -> None:
    program = sound()
    break_it(program)
    with pytest.raises(VerifyError) as caught:
        verify(program)
    assert str(caught.value).startswith(message)


def test_operators_without_an_entry_are_listed() -> None:
    program = recorded(lambda x: torch.fft.fft(x).abs() + x, x=torch.ones(2, 3))
    assert [str(node.target) for node in unknown_operators(program)] == ["aten.fft_fft.default"]
    assert not any(is_scalar(node) for node in program.forward.graph.nodes)
    assert unknown_operators(sound()) == []
