"""The clean pipeline on real architectures: same outputs, canonical form, nothing left to do."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from effc.ir.opspec import op_name
from effc.ir.program import Program, copy_module
from effc.ir.provenance import source
from effc.ir.testing import (
    EXACT,
    ROUNDING,
    Tolerance,
    assert_close,
    assert_same_outputs,
    operators,
    random_inputs,
    recorded,
)
from effc.ir.verify import unknown_operators
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager
from effc.passes.report import PipelineReport

aten = torch.ops.aten
ROUNDED = ROUNDING[torch.float32]
TOLERANCES = {
    "resnet": ROUNDED,
    "mobilenet": ROUNDED,
    "vit": EXACT,
    "bert": EXACT,
    "llama": ROUNDED,
    "minilm": EXACT,
}
FOLDED = ("resnet", "mobilenet")  # kernels round 50 layers otherwise with other threads
COPIES = ("clone", "alias", "detach", "_to_copy", "dropout", "contiguous", "lift_fresh_copy")
Models = Callable[[str], Program]
Reports = Callable[[str], PipelineReport]


@pytest.fixture(scope="module")
def report(model: Models) -> Reports:
    return cache(lambda name: PassManager.parse(CLEAN).run(model(name)))


@pytest.mark.parametrize(("name", "tolerance"), TOLERANCES.items())
def test_outputs_stay(name: str, tolerance: Tolerance, model: Models, report: Reports) -> None:
    before, after = model(name), report(name).program
    for sizes in ({"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 5}):
        inputs = random_inputs(before, sizes)
        if name in FOLDED:
            assert_close(name, in_double(before, inputs), in_double(after, inputs), tolerance)
        else:
            assert_same_outputs(before, after, inputs, tolerance)


def in_double(program: Program, inputs: dict[str, Tensor]) -> Tensor:
    """The output in float64, which holds what folding did and not what float32 kernels round."""
    wide = [inputs[spec.name].double() for spec in program.signature.inputs]
    (output,) = copy_module(program.forward).double()(*wide)
    return output


@pytest.mark.parametrize("name", ["resnet", "vit", "bert", "llama"])
def test_a_second_run_changes_nothing(name: str, report: Reports) -> None:
    again = PassManager.parse(CLEAN).run(report(name).program)
    assert [row.text for row in again.rows if row.changed] == []


@pytest.mark.parametrize("name", TOLERANCES)
def test_no_copies_are_left(name: str, report: Reports) -> None:
    program = report(name).program
    casts = {"aten._to_copy.default"}
    found = {op for op in operators(program) if set(op.split(".")) & set(COPIES)}
    assert found <= casts
    assert unknown_operators(program) == []


@pytest.mark.parametrize("name", TOLERANCES)
def test_every_call_has_all_its_positional_arguments(name: str, report: Reports) -> None:
    for node in report(name).program.forward.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None:
            positional = [entry for entry in schema.arguments if not entry.kwarg_only]
            assert len(node.args) == len(positional), node.format_node()


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_no_batch_norm_is_left(name: str, report: Reports) -> None:
    found = operators(report(name).program)
    assert [op for op in found if "batch_norm" in op] == []
    assert found["aten.mul.Tensor"] == 0


def test_minilm_mask_is_a_cast_and_a_view(report: Reports) -> None:
    program = report("minilm").program
    attention = next(
        node
        for node in program.forward.graph.nodes
        if op_name(node) == "aten.scaled_dot_product_attention.default"
    )
    chain = []
    node = attention.args[3]
    while node.op == "call_function":
        chain.append(op_name(node))
        node = node.args[0]
    assert chain == ["aten.expand.default", "aten.view.default", "aten._to_copy.default"]
    assert node.op == "placeholder"


def test_minilm_is_small(model: Models, report: Reports) -> None:
    before, after = operators(model("minilm")), operators(report("minilm").program)
    assert sum(after.values()) < 0.85 * sum(before.values())
    assert after["aten.linear.default"] == before["aten.linear.default"]
    assert not {"aten.arange.default", "aten.index.Tensor", "aten.ge.Scalar"} & after.keys()


def test_llama_norms_are_whole(report: Reports) -> None:
    found = operators(report("llama").program)
    assert found["aten.rms_norm.default"] == 5
    assert not {"aten.rsqrt.default", "aten.mean.dim", "aten.pow.Tensor_Scalar"} & found.keys()


def test_vit_needs_no_mask(report: Reports) -> None:
    program = report("vit").program
    masks = [
        node.args[3]
        for node in program.forward.graph.nodes
        if op_name(node) == "aten.scaled_dot_product_attention.default"
    ]
    assert masks == [None, None]


@pytest.mark.parametrize("name", ["resnet", "llama"])
def test_sources_survive(name: str, model: Models, report: Reports) -> None:
    before = {source(node) for node in model(name).forward.graph.nodes}
    after = {source(node) for node in report(name).program.forward.graph.nodes}
    anchors = [
        source(node)
        for node in report(name).program.forward.graph.nodes
        if op_name(node) in ("aten.conv2d.default", "aten.linear.default")
    ]
    assert after <= before
    assert all(anchors)


def test_methods_still_share_their_weights() -> None:
    norm = (torch.tensor([0.5, 1.0]), torch.tensor([2.0, 1.5]))
    kernel = torch.arange(4.0).view(2, 2, 1, 1)
    program = recorded(lambda x: functional.batch_norm(aten.conv2d(x, kernel), *norm), x=kernel)
    program.methods["decode"] = copy_module(program.forward)
    program.signatures["decode"] = program.signature
    after = PassManager.parse(CLEAN).run(program).program
    first, second = (dict(module.named_buffers()) for module in after.methods.values())
    assert first.keys() == second.keys()
    assert all(first[name] is second[name] for name in first)
    for method in after.methods:
        assert_same_outputs(program, after, tolerance=ROUNDED, method=method)


def test_weights_of_the_input_program_are_not_written(model: Models, report: Reports) -> None:
    versions = {name: tensor._version for name, tensor in model("resnet").weights().items()}
    report("resnet")
    PassManager.parse(CLEAN).run(model("resnet"))
    assert {n: t._version for n, t in model("resnet").weights().items()} == versions
