"""The official ONNX backend tests: which there are, and what is left out of a count, and why."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

KINDS = ("node", "real", "simple", "pytorch-converted", "pytorch-operator")
STRING = 8
FLOAT8 = frozenset({17, 18, 19, 20, 24})
NARROW = frozenset({21, 22, 23, 25, 26, 27, 28})
RANDOM = re.compile(r"Bernoulli|Random\w+|Multinomial")
LOSSES = ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: Its name, unique among all kinds.
        kind: The kind of test in the suite.
        test: The suite's own object.
    """

    name: str
    kind: str
    test: Any

    @property
    def is_expanded(self) -> bool:
        """Whether the operator is spelled out as its function body."""
        return "_expanded" in self.name

    @property
    def operator(self) -> str:
        """What the test is about: the operator of a node test, otherwise the kind."""
        if self.kind != "node":
            return self.kind
        model = self.test.model
        nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        if self.is_expanded or not nodes:
            return self.name.removeprefix("test_").split("_expanded")[0].split("_")[0]
        return str(nodes[0].op_type)


@cache
def cases() -> dict[str, Case]:
    """Every test by name."""
    from onnx.backend.test.loader import load_model_tests

    found = {}
    for kind in KINDS:
        for test in load_model_tests(kind=kind):
            found[test.name] = Case(test.name, kind, test)
    return found


def model_of(case: Case) -> Any:
    """The test's model."""
    import onnx

    if case.test.model is not None:
        return case.test.model
    if case.kind == "real":
        from pathlib import Path

        return onnx.load(Path(onnx.__file__).parent.parent / case.test.url)
    return onnx.load(f"{case.test.model_dir}/model.onnx")


def _types(model: Any) -> Iterator[Any]:
    for part in (model.graph.input, model.graph.output, model.graph.value_info):
        for value in part:
            yield value.type


def _elements(model: Any) -> set[int]:
    found = {one.tensor_type.elem_type for one in _types(model) if one.HasField("tensor_type")}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "output_dtype") and attribute.i:
                found.add(attribute.i)
            if attribute.HasField("t"):
                found.add(attribute.t.data_type)
    return found


def excluded(case: Case) -> str:
    """Why a test counts in no denominator; empty for those that do.

    The borders are those of the numbers other systems were measured with: operators for texts count
    as texts also where a test has numbers, and sequences go by the test's name.
    """
    model = model_of(case)
    nodes = list(model.graph.node)
    domains = {node.domain for node in nodes}
    operators = {node.op_type for node in nodes}
    if any("training" in domain for domain in domains) or "Gradient" in operators:
        return "training"
    if re.search(r"training_mode|training_dropout", case.name):
        return "training mode"
    if any(RANDOM.fullmatch(op) for op in operators):
        return "random outputs"
    if "ai.onnx.ml" in domains:
        return "ai.onnx.ml"
    if "ImageDecoder" in operators:
        return "ImageDecoder"
    if STRING in _elements(model) or "TfIdfVectorizer" in operators:
        return "texts"
    kinds = {one.WhichOneof("value") for one in _types(model)}
    if kinds & {"sequence_type", "optional_type"} or "seq" in case.name:
        return "sequences and optionals"
    return ""


def is_narrowed(case: Case) -> str:
    """Why a test does not count for compiled code; empty for those that do."""
    model = model_of(case)
    operators = {node.op_type for node in model.graph.node}
    domains = {node.domain for node in model.graph.node}
    if operators & set(LOSSES) or re.match(r"test_(nllloss|sce)_", case.name):
        return "losses"
    if "ai.onnx.preview" in domains or "flexattention" in case.name:
        return "preview"
    elements = _elements(model)
    if elements & FLOAT8:
        return "float8"
    return "sub-byte types" if elements & NARROW else ""
