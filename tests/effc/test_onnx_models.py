"""Whole ONNX models through the command line: inspected, compiled, run, exported."""

import sys
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ir" / "trace" / "onnx"))
from exported_models import exported

pytestmark = pytest.mark.slow
MODELS = ["bert", "llama", "t5-encoder", "vit", "mobilenetv2", "whisper-encoder"]


@pytest.mark.parametrize("name", MODELS)
def test_commands(run, clock, tmp_path, name):
    proto, _, _ = exported(name)
    path, out = tmp_path / "model.onnx", tmp_path / "out"
    onnx.save(proto, path)
    assert "target native: all supported" in run("inspect", path).assert_succeeds().out
    run("compile", path, "--threads", 1, "-o", out).assert_succeeds()
    run("run", out).assert_succeeds()
    assert clock.calls
    written = tmp_path / "small.onnx"
    text = run("export", out, "--to", "onnx", "-o", written).assert_succeeds().out
    assert "ONNX Runtime agrees to" in text
    assert written.stat().st_size < path.stat().st_size
    kinds = {node.op_type for node in onnx.load(written).graph.node}
    assert kinds & {"DequantizeLinear", "MatMulInteger"}
