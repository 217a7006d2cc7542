"""Whole models: exported, run in ONNX Runtime, read back; the round trip of every architecture."""

import pytest
import torch
from export_checks import QUANTIZED_DB, check_export
from exported_models import MODELS, exported
from onnx_models import save

from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

DECIBEL = 80.0
QUICK = ["bert", "vit", "resnet"]
ALL = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
ZOO = ["digits:residual_cnn", "digits:depthwise_cnn", "digits:vit", "language_model:language_model"]


def passed(program: Program, passes: str) -> Program:
    pipeline = f"{CLEAN},{passes}" if passes else CLEAN
    return PassManager.parse(pipeline).run(program, PassContext()).program


@pytest.mark.parametrize("name", ALL)
def test_architecture(name, tmp_path):
    """ONNX -> effc -> ONNX -> effc, as float32 and with 8 bits."""
    proto, inputs, _ = exported(name)
    program = open_model(save(proto, tmp_path / "model.onnx"))
    given = {program.signature.inputs[0].name: inputs[0]}
    assert check_export(passed(program, ""), tmp_path, DECIBEL, given).graph.node
    quantized = passed(program, "quantize{activations=dynamic}")
    model = check_export(quantized, tmp_path, QUANTIZED_DB, given)
    assert any(node.op_type == "DequantizeLinear" for node in model.graph.node) or any(
        node.op_type == "MatMulInteger" for node in model.graph.node
    )


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name, tmp_path):
    """torch -> effc -> ONNX -> effc, as float32, with 8 bits and with 4-bit weights."""
    program = passed(open_model(f"zoo.{name}"), "")
    examples = dict(
        zip([s.name for s in program.signature.inputs], program.examples["forward"], strict=True)
    )
    given = {name: torch.as_tensor(value) for name, value in examples.items()}
    assert check_export(program, tmp_path, DECIBEL, given).graph.node
    for passes in ("quantize{activations=dynamic}", "quantize-weights{bits=4 group=32}"):
        assert check_export(passed(program, passes), tmp_path, QUANTIZED_DB, given).graph.node
