"""What tests of the ONNX export share: run a model in ONNX Runtime, compare, read it back."""

from pathlib import Path

import onnx
import onnxruntime
import torch

from effc.ir import options
from effc.ir.export.onnx import onnx_model, runtime_environment
from effc.ir.program import Program
from effc.ir.testing import random_inputs
from effc.ir.trace import open_model
from effc.passes.instruments import sqnr

FLOAT_DB, QUANTIZED_DB = 100.0, 40.0
Tensors = dict[str, torch.Tensor]


def in_runtime(model: onnx.ModelProto, inputs: Tensors) -> Tensors:
    """What ONNX Runtime computes."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 3, 1
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    with options.environment(runtime_environment(model.opset_import[0].version)):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
    names = [entry.name for entry in session.get_outputs()]
    given = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
    found = session.run(names, given)
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def assert_agrees(expected: Tensors, found: Tensors, least: float) -> None:
    """Same names, types and shapes, and values as close as asked for, in dB."""
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        other = found[name]
        assert (other.dtype, other.shape) == (value.dtype, value.shape), name
        if value.dtype.is_floating_point:
            assert torch.equal(value.isnan(), other.isnan()), name
            finite = torch.isfinite(value)
            assert torch.equal(value[~finite & ~value.isnan()], other[~finite & ~value.isnan()])
            assert sqnr(value[finite], other[finite]) >= least, name
        else:
            assert torch.equal(value, other), name


def check_export(
    program: Program, folder: Path, least: float = FLOAT_DB, inputs: Tensors | None = None
) -> onnx.ModelProto:
    """Export, run in ONNX Runtime, read back, and compare both with the program."""
    inputs = random_inputs(program) if inputs is None else inputs
    expected = program.run(inputs)
    model = onnx_model(program)
    assert_agrees(expected, in_runtime(model, inputs), least)
    path = folder / "exported.onnx"
    path.write_bytes(model.SerializeToString())
    back = open_model(path)
    assert [spec.name for spec in back.signature.inputs] == [
        spec.name for spec in program.signature.inputs
    ]
    assert_agrees(expected, back.run(inputs), least)
    return model
