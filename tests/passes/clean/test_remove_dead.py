"""Remove dead: unread calls, weights and tensors go, nothing else."""

import torch

from effc.ir.edit import Editor
from effc.ir.program import Program, set_attribute
from effc.ir.testing import assert_same_outputs, operators, recorded
from effc.passes.base import PassContext
from effc.passes.clean.remove_dead import RemoveDead

WEIGHT = torch.arange(3.0)


def with_unread(program: Program) -> Program:
    """Add a chain of two calls and a weight nobody reads."""
    editor = Editor(program, rule="test")
    first = next(node for node in editor.graph.nodes if node.op == "call_function")
    product = editor.call(first, torch.ops.aten.mul.Tensor, first, editor.weight("extra", WEIGHT))
    editor.call(product, torch.ops.aten.relu.default, product)
    program.forward.recompile()
    return program


def test_chains_and_their_weights_go() -> None:
    clean = recorded(lambda x: x * WEIGHT, x=torch.randn(2, 3))
    program = with_unread(clean.clone())
    assert len(program.weights()) == 2
    outcome = RemoveDead().run(program, PassContext())
    assert outcome.changed
    assert outcome.notes == {"removed": 3}
    assert operators(program) == operators(clean)
    assert list(program.weights()) == list(clean.weights())
    assert "extra" not in dict(program.forward.named_buffers())
    assert_same_outputs(clean, program)


def test_nothing_to_remove() -> None:
    program = recorded(lambda x: x * WEIGHT, x=torch.randn(2, 3))
    assert not RemoveDead().run(program, PassContext()).changed


def test_tensors_no_node_reads_go_without_a_change() -> None:
    program = recorded(lambda x: x * WEIGHT, x=torch.randn(2, 3))
    set_attribute(program.forward, "forgotten", WEIGHT)
    outcome = RemoveDead().run(program, PassContext())
    assert not outcome.changed
    assert "forgotten" not in dict(program.forward.named_buffers())


def test_unread_inputs_stay() -> None:
    program = recorded(lambda x, y: x.relu(), x=torch.randn(2), y=torch.randn(2))
    RemoveDead().run(program, PassContext())
    inputs = program.forward.graph.find_nodes(op="placeholder")
    assert [node.name for node in inputs] == ["x_1", "y_1"]
