"""Products of integers known as weights become effc's integer product, which has a kernel."""

import numpy as np
import pytest
import torch
from export_checks import QUANTIZED_DB, check_export
from onnx_models import model, node, save, value

from effc.ir.testing import operators
from effc.ir.trace import open_model
from effc.onnx_backend import EffcBackend

PRODUCT = "effc.linear_integer.default"


def dynamic(codes: np.ndarray, zero: np.ndarray | None):
    """`x @ w` as ONNX Runtime's dynamic quantization writes it."""
    weights = {"w": codes, "step": np.array(0.02, np.float32)}
    parts = ["q", "w", "zero"] if zero is None else ["q", "w", "zero", "w_zero"]
    if zero is not None:
        weights["w_zero"] = zero
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", parts, ["sums"]),
        node("Cast", ["sums"], ["wide"], to=1),
        node("Mul", ["scale", "step"], ["steps"]),
        node("Mul", ["wide", "steps"], ["y"]),
    ]
    return model(nodes, [value("x", [5, 12])], [value("y", [5, 7])], weights)


def codes_of(dtype: type) -> np.ndarray:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    return rng.integers(limits.min + 28, limits.max - 28, (12, 7)).astype(dtype)


CASES = {
    "int8": (codes_of(np.int8), None),
    "uint8": (codes_of(np.uint8), np.array(128, np.uint8)),
    "per column": (codes_of(np.int8), np.arange(-3, 4).astype(np.int8)),
}


@pytest.mark.parametrize("name", CASES)
def test_known_weights(name, tmp_path):
    codes, zero = CASES[name]
    proto = dynamic(codes, zero)
    program = open_model(save(proto, tmp_path / "model.onnx"))
    assert operators(program)[PRODUCT] == 1
    x = np.random.default_rng(1).standard_normal((5, 12)).astype(np.float32)
    found = program.run({"x": torch.from_numpy(x)})["y"].numpy()
    weight = (codes.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))) * 0.02
    assert np.abs(found - x @ weight).max() < 0.02 * np.abs(x @ weight).max()
    compiled = EffcBackend.prepare(proto, target="native").run([x])[0]
    np.testing.assert_allclose(compiled, found, rtol=1e-5, atol=1e-6)
    assert check_export(program, tmp_path, QUANTIZED_DB, {"x": torch.from_numpy(x)}).graph.node


def test_codes_that_are_no_int8_around_zero_stay_plain_integers(tmp_path):
    proto = dynamic(codes_of(np.uint8), None)
    program = open_model(save(proto, tmp_path / "model.onnx"))
    assert operators(program)[PRODUCT] == 0
    assert operators(program)["aten.matmul.default"] == 1
