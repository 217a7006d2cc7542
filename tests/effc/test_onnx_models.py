"""Whole ONNX models through the command line: inspected, compiled, run, exported."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
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


@pytest.mark.parametrize("passes", ["quantize", "quantize-weights{bits=4}"])
def test_onnx_runtime_runs_an_artifact_by_itself(run, clock, tmp_path, passes):
    proto, _, _ = exported("bert")
    path, out = tmp_path / "model.onnx", tmp_path / "out"
    onnx.save(proto, path)
    target = ("--target", "onnxruntime", "-p", passes, "--threads", 1)
    run("compile", path, *target, "-o", out).assert_succeeds()
    assert clock.calls
    settings = json.loads((out / "session.json").read_text())
    chosen = onnxruntime.SessionOptions()
    for name, value in settings["config"].items():
        chosen.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), chosen)
    sample = np.load(out / "sample.npz")
    names = [entry.name for entry in session.get_outputs()]
    given = {entry.name: sample[f"input.{entry.name}"] for entry in session.get_inputs()}
    for name, found in zip(names, session.run(names, given), strict=True):
        np.testing.assert_allclose(found, sample[f"output.{name}"], rtol=1e-3, atol=1e-4)
