"""The two-way text form of passes and pipelines."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effc.ir.errors import UsageError
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.registry import PASSES, parse_pipeline, pass_class, pass_text, pipeline_text

WORD = st.text("abcdefghij.*_-", min_size=1, max_size=8).filter(lambda word: word != "none")
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(10**6), 10**6),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: WORD,
    type(None): st.none(),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an option's type."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), min_size=1, max_size=3).map(tuple)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    raise NotImplementedError(f"write a strategy for options of type {annotation}")


@dataclass(frozen=True)
class Sample(Pass):
    """Has an option of every kind."""

    name: ClassVar[str] = "sample"
    ratio: float = 0.5
    bits: int = 8
    is_signed: bool = True
    kind: Literal["taylor", "l1"] = "taylor"
    group: int | None = 128
    layers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    label: str = "x"

    def run(self, program: Any, ctx: PassContext) -> Outcome:
        return Outcome(changed=False)


SAMPLE = f"{Sample.__module__}:Sample"
ALL = [*(pass_class(name) for name in PASSES), Sample]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_every_option_of_every_pass_reads_back(kind: type[Pass], monkeypatch: Any) -> None:
    monkeypatch.setitem(PASSES, "sample", SAMPLE)
    monkeypatch.setattr("effc.passes.registry.pass_class", lambda name: kind)
    hints = typing.get_type_hints(kind)
    options = {entry.name: values(hints[entry.name]) for entry in dataclasses.fields(kind)}

    @settings(max_examples=40)
    @given(st.fixed_dictionaries({}, optional=options))
    def check(chosen: dict[str, Any]) -> None:
        instance = kind(**chosen)
        assert parse_pipeline(pass_text(instance)) == (instance,)

    check()


def test_pipelines_read_back() -> None:
    text = "fold-norms,fold-constants{max_bytes=64},remove-dead"
    passes = parse_pipeline(f" {text.replace(',', ' , ')} ")
    assert [type(step).name for step in passes] == ["fold-norms", "fold-constants", "remove-dead"]
    assert pipeline_text(passes) == text
    assert parse_pipeline("") == ()


def test_defaults_are_not_written() -> None:
    assert pass_text(parse_pipeline("fold-constants{max_bytes=1048576}")[0]) == "fold-constants"


def test_hyphens_in_options() -> None:
    (step,) = parse_pipeline("fold-constants{max-bytes=1}")
    assert pass_text(step) == "fold-constants{max_bytes=1}"


def test_a_pass_of_the_users() -> None:
    (step,) = parse_pipeline("effc.passes.clean.remove_dead:RemoveDead")
    assert pass_text(step) == "remove-dead"


ERRORS = {
    "fold-norm": f"unknown pass 'fold-norm'; there are: {', '.join(PASSES)}",
    "fold-norms{x=1}": "pass fold-norms has no option 'x=1'; options are: none",
    "fold-constants{max_bytes}": (
        "pass fold-constants has no option 'max_bytes'; options are: max_bytes"
    ),
    "fold-constants{max_bytes=few}": (
        "pass fold-constants: max_bytes=few: "
        "Input should be a valid integer, unable to parse string as an integer"
    ),
    "fold-norms{": "cannot read the pipeline at 'fold-norms{'",
    "fold-norms;remove-dead": "cannot read the pipeline at 'fold-norms;remove-dead'",
    "fold-norms,,remove-dead": "cannot read the pipeline at ',remove-dead'",
    "no.such.module:Pass": ("cannot import pass 'no.such.module:Pass': No module named 'no'"),
    "effc.passes.base:Missing": (
        "cannot import pass 'effc.passes.base:Missing': "
        "module 'effc.passes.base' has no attribute 'Missing'"
    ),
    "effc.passes.base:Outcome": "'effc.passes.base:Outcome' is not a subclass of effc.Pass",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pipeline(text)
    assert str(caught.value) == ERRORS[text]
