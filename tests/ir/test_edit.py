"""The editor: values, weights, replacement, failure."""

import pytest
import torch
from torch import fx

from effc.ir.edit import Editor, is_size_argument
from effc.ir.program import Program
from effc.ir.testing import Function, recorded, traced
from effc.ir.verify import verify

aten = torch.ops.aten
WEIGHT = torch.arange(3.0)


def program_and_call() -> tuple[Program, fx.Node]:
    program = recorded(lambda x: x * WEIGHT, x=torch.ones(2, 3))
    return program, program.forward.graph.output_node().args[0][0]


def test_a_call_that_fails_leaves_the_graph_alone() -> None:
    program, node = program_and_call()
    before = [entry.name for entry in program.forward.graph.nodes]
    with pytest.raises((RuntimeError, ValueError)):
        Editor(program).call(node, aten.view.default, node, [7])
    assert [entry.name for entry in program.forward.graph.nodes] == before
    verify(program)


def test_new_weights_get_free_names() -> None:
    program, node = program_and_call()
    editor = Editor(program, rule="test")
    first, second = editor.weight("a.b", WEIGHT), editor.weight("a.b", WEIGHT)
    assert (first.target, second.target) == ("a.b", "a.b_1")
    editor.replace(node, editor.call(node, aten.add.Tensor, node, first))
    assert editor.finish()
    verify(program)
    assert sorted(program.weights()) == ["_tensor_constant0", "a.b", "a.b_1"]


def test_replacing_keeps_the_new_node_as_a_user() -> None:
    program, node = program_and_call()
    editor = Editor(program)
    new = editor.call(node, aten.relu.default, node)
    editor.replace(node, new)
    assert new.args[0] is node
    assert program.forward.graph.output_node().args[0][0] is new


def test_edits_do_not_reach_a_clone() -> None:
    program, node = program_and_call()
    copy = program.clone()
    editor = Editor(program)
    editor.set_argument(node, 1, 2.0)
    editor.remove_dead()
    editor.finish()
    assert program.weights() == {}
    assert list(copy.weights()) == ["_tensor_constant0"]
    verify(copy)


def test_sizes_stay_symbolic() -> None:
    module = Function(lambda x: x.flatten(1))
    program = traced(module, torch.ones(2, 3, 4), dynamic={"x.0": "batch"})
    node = program.forward.graph.output_node().args[0][0]
    new = Editor(program).call(node, aten.relu.default, node)
    assert program.shape(new)[0] == program.signature.inputs[0].shape[0]


def test_size_arguments() -> None:
    module = Function(lambda x: x.view(x.shape[0], -1))
    program = traced(module, torch.ones(2, 3, 4), dynamic={"x.0": "batch"})
    view = program.forward.graph.output_node().args[0][0]
    assert [is_size_argument(argument) for argument in view.args[1]] == [True, True]
    assert not is_size_argument(view)
    assert not is_size_argument(1.5)
