"""Models exported by `torch.onnx.export`: imported, compiled, written again, always compared."""

import numpy as np
import pytest
from export_checks import QUANTIZED_DB, check_export
from exported_models import MODELS, exported
from onnx_models import save

from effc.ir.trace import open_model
from effc.ir.verify import unknown_operators, verify
from effc.onnx_backend import EffcBackend
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

pytestmark = pytest.mark.slow
DECIBEL, WRITTEN = 90.0, 80.0


def decibel(expected: np.ndarray, found: np.ndarray) -> float:
    error = np.square(expected.astype(np.float64) - found).sum()
    return 10 * np.log10(np.square(expected.astype(np.float64)).sum() / max(error, 1e-300))


@pytest.mark.parametrize("name", MODELS)
def test_import_and_compile(name, tmp_path):
    proto, inputs, expected = exported(name)
    program = open_model(save(proto, tmp_path / "model.onnx"))
    verify(program)
    assert unknown_operators(program) == []
    spec = program.signature.inputs[0]
    found = next(iter(program.run({spec.name: inputs[0]}).values()))
    assert decibel(expected.numpy(), found.numpy()) > DECIBEL
    rep = EffcBackend.prepare(proto, target="native")
    compiled = rep.run([x.numpy() for x in inputs])[0]
    assert isinstance(compiled, np.ndarray)
    assert decibel(expected.numpy(), compiled) > DECIBEL
    written_again(program, {spec.name: inputs[0]}, tmp_path)


def written_again(program, given, folder):
    """ONNX -> effc -> ONNX -> effc, as float32 and with 8 bits."""
    clean = PassManager.parse(CLEAN).run(program, PassContext()).program
    assert check_export(clean, folder, WRITTEN, given).graph.node
    quantize = PassManager.parse("quantize{activations=dynamic}")
    quantized = quantize.run(clean, PassContext()).program
    kinds = {
        node.op_type for node in check_export(quantized, folder, QUANTIZED_DB, given).graph.node
    }
    assert kinds & {"DequantizeLinear", "MatMulInteger"}


def test_enough_models() -> None:
    assert len(MODELS) >= 20
