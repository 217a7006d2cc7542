"""`effc export`, and the target onnxruntime from an ONNX file to an artifact."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import effc
from effc.commands import export
from effc.ir.errors import MismatchError
from effc.ir.trace import open_model
from effc.passes.instruments import sqnr

MODEL = "cli_models:classifier"


@pytest.fixture
def onnx_file(run, tmp_path) -> Path:
    path = tmp_path / "classifier.onnx"
    run("export", MODEL, "--to", "onnx", "-o", path).assert_succeeds()
    return path


def test_a_model_as_onnx(run, models, onnx_file):
    module, (x,) = models.classifier()
    program = open_model(onnx_file)
    found = program.run({"x": x})["output"]
    assert sqnr(module(x), found) > 100
    facts = run("export", MODEL, "--to", "onnx", "-o", onnx_file, "--json").assert_succeeds().json
    assert facts["path"] == str(onnx_file)
    assert facts["opset"] == onnx.load(onnx_file).opset_import[0].version == 13
    assert facts["nbytes"] == onnx_file.stat().st_size
    assert facts["agreement_db"]["output"] > 100


def test_a_compressed_model_as_onnx(run, small_artifact, tmp_path):
    path = tmp_path / "small.onnx"
    text = run("export", small_artifact, "--to", "onnx", "-o", path).assert_succeeds().out
    assert "opset 13, ONNX Runtime agrees to" in text
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_a_model_as_pt2(run, small_artifact, tmp_path):
    path = tmp_path / "small.pt2"
    run("export", small_artifact, "--to", "pt2", "-o", path).assert_succeeds()
    assert str(open_model(path).signature) == str(effc.load(small_artifact).signature)


def test_wrong_usage(run, tmp_path):
    words = ["export", MODEL, "-o", tmp_path / "x"]
    run(*words, "--to", "tflite").assert_fails(2, "unknown form 'tflite'", "onnx, pt2")
    run(*words, "--to", "c").assert_fails(2, "effc export --to c is not available yet")
    run("export", "missing.onnx", "--to", "onnx", "-o", tmp_path / "x").assert_fails(2)
    place = tmp_path / "missing" / "x.onnx"
    run("export", MODEL, "--to", "onnx", "-o", place).assert_fails(2, "no such folder")
    assert list(tmp_path.glob("x*")) == []


def test_operators_without_a_form_are_listed(run, tmp_path):
    path = tmp_path / "x.onnx"
    ran = run("export", "cli_models:spectrum", "--to", "onnx", "-o", path)
    ran.assert_fails(3, "aten.special_bessel_j0.default", "aten.fft_rfft.default")
    assert not path.exists()


def test_what_onnx_runtime_computes_is_compared(run, tmp_path, monkeypatch):
    from effc.backends.onnxruntime.session import Runtime

    before = Runtime.run

    def wrong(self, inputs, names):
        return {name: value + 1 for name, value in before(self, inputs, names).items()}

    monkeypatch.setattr(Runtime, "run", wrong)
    assert export.command is not None
    ran = run("export", MODEL, "--to", "onnx", "-o", tmp_path / "x.onnx")
    assert ran.assert_fails(MismatchError.exit_code, "output output differs in ONNX Runtime")


def test_the_target_onnxruntime(run, onnx_file, tmp_path, clock):
    """An ONNX file in, a QDQ model with its settings out; run, measured, inspected, evaluated."""
    out = tmp_path / "out"
    words = ["--target", "onnxruntime", "--threads", 1, "--calib", "cli_models:batches"]
    run("compile", onnx_file, *words, "-o", out).assert_succeeds()
    assert clock.calls
    report = json.loads((out / "report.json").read_text())
    assert report["measured_at"]["target"] == "onnxruntime"
    assert report["verdict"]["problems"] == []
    assert report["result"]["size_nbytes"] < report["baseline"]["size_nbytes"]
    kinds = [node.op_type for node in onnx.load(out / "model.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 3
    run("run", out).assert_succeeds()
    rows = run("bench", out, "--rounds", 1, "--json").assert_succeeds().json["rows"]
    assert rows[0]["median"] > 0
    text = run("inspect", onnx_file, "--target", "onnxruntime").assert_succeeds().out
    assert "target onnxruntime: all supported" in text
    found = effc.load(out)(x=np.zeros((1, 32), np.float32))
    assert found.shape == (1, 8)


def test_what_the_target_lacks_is_listed(run):
    ran = run("inspect", "cli_models:spectrum", "--target", "onnxruntime")
    assert ran.assert_fails(3, "aten.special_bessel_j0.default", "aten.fft_rfft.default")
