"""The zoo's models, exported, run in ONNX Runtime, and read back."""

import pytest
from export_checks import QUANTIZED_DB, check_export

from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

DECIBEL = 80.0
ZOO = ["digits:residual_cnn", "digits:depthwise_cnn", "digits:vit", "language_model:language_model"]
EIGHT_BITS, FOUR_BITS = "quantize{activations=dynamic}", "quantize-weights{bits=4 group=32}"


def passed(program: Program, passes: str) -> Program:
    return PassManager.parse(passes).run(program, PassContext()).program


@pytest.mark.parametrize("name", ZOO)
def test_round_trip(name, tmp_path):
    """torch -> effc -> ONNX -> effc, as float32, with 8 bits and with 4-bit weights."""
    program = passed(open_model(f"zoo.{name}"), CLEAN)
    names = [spec.name for spec in program.signature.inputs]
    given = dict(zip(names, program.examples["forward"], strict=True))
    assert check_export(program, tmp_path, DECIBEL, given).graph.node
    for passes in (EIGHT_BITS, FOUR_BITS):
        assert check_export(passed(program, passes), tmp_path, QUANTIZED_DB, given).graph.node
