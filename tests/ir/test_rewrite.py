"""Rewrite rules: fixpoint, limit, refusals, dead code, provenance."""

from dataclasses import dataclass

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.program import FORWARD, Program, copy_module
from effc.ir.provenance import set_source, touched
from effc.ir.rewrite import apply
from effc.ir.testing import assert_same_outputs, operators, recorded
from effc.ir.text import fingerprint

aten = torch.ops.aten


@dataclass
class Twice:
    """Turns `relu(relu(x))` into `relu(x)`; declines sources that are asked to stay."""

    name: str = "relu-twice"
    kept: str = ""

    def match(self, node: fx.Node) -> bool:
        return _is_relu(node) and _is_relu(node.args[0])

    def check(self, node: fx.Node, program: Program) -> str | None:
        return "it is asked to stay" if node.name == self.kept else None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        inner = node.args[0]
        editor.replace(node, editor.call(node, aten.relu.default, inner.args[0], before=node))


def _is_relu(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.relu.default


def chain(length: int) -> Program:
    def relus(x: torch.Tensor) -> torch.Tensor:
        for _ in range(length):
            x = x.relu()
        return x

    return recorded(relus, x=torch.randn(3))


def test_rules_run_until_none_fires() -> None:
    before = chain(5)
    after = before.clone()
    done = apply(after, [Twice()])
    assert done.changed
    assert done.fired == {"relu-twice": 4}
    assert operators(after) == {"aten.relu.default": 1}
    assert_same_outputs(before, after)


def test_nothing_to_do() -> None:
    program = chain(1)
    before = fingerprint(program)
    done = apply(program, [Twice()])
    assert not done.changed
    assert fingerprint(program) == before


def test_the_limit_counts_rewrites() -> None:
    lengths = []
    for limit in range(5):
        program = chain(4)
        done = apply(program, [Twice()], limit)
        assert done.fired.total() == min(limit, 3)
        lengths.append(operators(program)["aten.relu.default"])
    assert lengths == [4, 3, 2, 1, 1]


def test_refusals_are_counted_once_and_name_the_source() -> None:
    program = chain(3)
    last = program.forward.graph.output_node().args[0][0]
    set_source(last, "encoder.last")
    done = apply(program, [Twice(kept=last.name)])
    assert done.refusals == [Refusal("relu-twice", "encoder.last", "it is asked to stay")]
    assert done.fired == {"relu-twice": 1}


def test_refusals_of_every_method_are_kept() -> None:
    program = chain(2)
    program.methods["decode"] = copy_module(program.forward)
    program.signatures["decode"] = program.signatures[FORWARD]
    last = program.forward.graph.output_node().args[0][0]
    for method, module in program.methods.items():
        set_source(module.graph.output_node().args[0][0], method)
    done = apply(program, [Twice(kept=last.name)])
    assert [refusal.source for refusal in done.refusals] == ["forward", "decode"]


def test_dead_nodes_count_as_a_change() -> None:
    program = chain(1)
    node = program.forward.graph.output_node().args[0][0]
    Editor(program).call(node, aten.exp.default, node)
    done = apply(program, [Twice()])
    assert done.changed
    assert done.removed == 1
    assert not done.fired


def test_provenance_notes_rule_and_source() -> None:
    program = chain(2)
    last = program.forward.graph.output_node().args[0][0]
    set_source(last, "encoder.last")
    apply(program, [Twice()])
    made = program.forward.graph.output_node().args[0][0]
    assert made.meta["custom"] == {"source": "encoder.last", "touched": ["relu-twice"]}
    assert touched(made) == ("relu-twice",)
