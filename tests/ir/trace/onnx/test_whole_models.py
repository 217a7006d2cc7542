"""Models exported by `torch.onnx.export`: imported, compared with PyTorch, compiled, compared."""

import numpy as np
import pytest
from exported_models import MODELS, exported
from onnx_models import save

from effc.ir.trace import open_model
from effc.ir.verify import unknown_operators, verify
from effc.onnx_backend import EffcBackend

pytestmark = pytest.mark.slow
DECIBEL = 90.0


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


def test_enough_models() -> None:
    assert len(MODELS) >= 20
