"""The manager: checked claims, failures in one line, reports; the base class of passes."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import EffcError, Refusal, UsageError, VerifyError
from effc.ir.program import Program
from effc.ir.testing import operators, recorded
from effc.ir.text import fingerprint
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.manager import PassManager

aten = torch.ops.aten
WEIGHT = torch.arange(3.0)


def small() -> Program:
    return recorded(lambda x: (x * WEIGHT).relu(), x=torch.randn(2, 3))


def last_call(program: Program) -> fx.Node:
    return program.forward.graph.output_node().args[0][0]


@dataclass(frozen=True)
class Edit(Pass):
    """Replaces the last call by an exponential; its options make it misbehave."""

    name: ClassVar[str] = "edit"
    mode: str = "honest"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        if self.mode == "fail":
            raise KeyError("layer 3")
        if self.mode == "refuse":
            raise UsageError("edit needs calibration data: --calib FILE")
        if self.mode == "boast":
            return Outcome(changed=True)
        editor = Editor(program, rule=self.name)
        node = last_call(program)
        editor.replace(node, editor.call(node, aten.exp.default, node.args[0], before=node))
        editor.finish()
        if self.mode == "break":
            last_call(program).meta["val"] = last_call(program).meta["val"].new_empty(7)
        refusals = (Refusal("edit", "a", "too small"), Refusal("edit", "b", "too small"))
        return Outcome(self.mode != "deny", {"edited": 1}, refusals)


def run(mode: str) -> None:
    PassManager((Edit(mode),)).run(small())


def text_of(mode: str) -> str:
    return f"{Edit.__module__}:Edit{{mode={mode}}}"


def test_passes_work_on_a_copy() -> None:
    program = small()
    before = fingerprint(program)
    report = PassManager((Edit(),)).run(program)
    assert fingerprint(program) == before
    assert operators(report.program) == {"aten.mul.Tensor": 1, "aten.exp.default": 1}
    assert report.changed


def test_an_empty_pipeline_changes_nothing() -> None:
    report = PassManager(()).run(small())
    assert not report.changed
    assert report.to_json() == []


@pytest.mark.parametrize(
    ("mode", "claim"), [("boast", "says it changed"), ("deny", "says it left alone")]
)
def test_lying_passes_are_caught(mode: str, claim: str) -> None:
    with pytest.raises(VerifyError) as caught:
        run(mode)
    assert str(caught.value) == f"{text_of(mode)} {claim} the program; the fingerprint disagrees"


def test_a_failing_pass_is_one_line_that_names_it() -> None:
    with pytest.raises(EffcError) as caught:
        run("fail")
    assert str(caught.value) == f"pass {text_of('fail')} failed: KeyError: 'layer 3'"
    assert isinstance(caught.value.__cause__, KeyError)


def test_errors_for_the_user_pass_through() -> None:
    with pytest.raises(UsageError, match=r"^edit needs calibration data: --calib FILE$"):
        run("refuse")


def test_a_pass_that_breaks_the_program_is_named() -> None:
    with pytest.raises(VerifyError) as caught:
        run("break")
    assert str(caught.value).startswith(f"after {text_of('break')}: test.forward: output is ")


def test_passes_that_run_without_the_manager_are_verified_in_tests() -> None:
    with pytest.raises(VerifyError, match="its signature says"):
        Edit("break").run(small(), PassContext())


def test_a_broken_input_is_refused_before_any_pass() -> None:
    program = small()
    del last_call(program).meta["val"]
    with pytest.raises(VerifyError, match="has no value description"):
        PassManager((Edit(),)).run(program)


def test_the_report_counts_refusals() -> None:
    (row,) = PassManager((Edit(),)).run(small()).to_json()
    assert row["refusals"] == [
        {"rule": "edit", "reason": "too small", "count": 2, "sources": ["a", "b"]}
    ]
    assert row["notes"] == {"edited": 1}
    assert row["changed"] is True
    assert row["seconds"] > 0
    assert json.loads(json.dumps(row)) == row


def test_a_pipeline_prints_as_it_was_read() -> None:
    text = "canonicalize,fold-constants{max_bytes=8},remove-dead"
    assert str(PassManager.parse(text)) == text


def test_progress_is_reported() -> None:
    seen: list[tuple[str, int, int]] = []
    context = PassContext(progress=lambda *step: seen.append(step))
    PassManager.parse("canonicalize,remove-dead").run(small(), context)
    assert seen == [("canonicalize", 0, 2), ("remove-dead", 1, 2), ("passes", 2, 2)]


def test_random_numbers_depend_on_seed_and_name_only() -> None:
    first = PassContext(seed=1).rng("pass").integers(1 << 30, size=4).tolist()
    assert first == PassContext(seed=1).rng("pass").integers(1 << 30, size=4).tolist()
    assert first != PassContext(seed=2).rng("pass").integers(1 << 30, size=4).tolist()
    assert first != PassContext(seed=1).rng("other").integers(1 << 30, size=4).tolist()


def test_patterns_of_layers() -> None:
    rules = (("encoder.*", {"bits": "8"}), ("*.query", {"bits": "4", "group": "32"}))
    context = PassContext(exclude=("head*",), rules=rules)
    assert context.is_excluded("head.0")
    assert not context.is_excluded("encoder.head")
    assert context.options_for("encoder.0.query") == {"bits": "4", "group": "32"}
    assert context.options_for("decoder") == {}
    check_patterns(context, ["head", "encoder.0.query"])
    with pytest.raises(UsageError) as caught:
        check_patterns(context, ["b", "a", "d", "e", "head", "c"])
    assert str(caught.value) == "pattern 'encoder.*' matches nothing; layers are a, b, c, d, ..."


def test_a_pass_without_run_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"^Pass does not implement run$"):
        Pass().run(small(), PassContext())
