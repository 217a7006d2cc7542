"""Peers with their own 8-bit quantization, or their own compiler, of the same model."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from effc.backends.peers import Arrays, Call, export_onnx, onnx_session, openvino_call
from effc.ir.program import FORWARD, Program

Data = Callable[[], Iterable[Arrays]]


def pre_processed(plain: Path, ready: Path) -> None:
    """ONNX Runtime's own preparation of a model for its quantizers.

    What its symbolic shapes do not know it saves in the current folder before it gives up, so that
    is the folder of the result.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with contextlib.chdir(ready.parent):
        try:
            quant_pre_process(str(plain), str(ready))
        except Exception:  # its symbolic shapes do not know every operator
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)


def onnxruntime_dynamic(program: Program, inputs: Arrays, threads: int, data: Data) -> Call:
    """ONNX Runtime's dynamic quantization: int8 weights, activations quantized while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, packed = (Path(folder) / f"{n}.onnx" for n in ("model", "ready", "int8"))
        export_onnx(program, inputs, plain)
        logging.disable(logging.WARNING)
        pre_processed(plain, ready)
        quantize_dynamic(ready, packed, weight_type=QuantType.QInt8, per_channel=True)
        logging.disable(logging.NOTSET)
        return onnx_session(packed, inputs, threads)


def onnxruntime_static(program: Program, inputs: Arrays, threads: int, data: Data) -> Call:
    """ONNX Runtime's static quantization: QDQ form, per-channel weights."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(data())

        def get_next(self) -> Arrays | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, packed = (Path(folder) / f"{n}.onnx" for n in ("model", "ready", "int8"))
        export_onnx(program, inputs, plain)
        logging.disable(logging.WARNING)
        pre_processed(plain, ready)
        quantize_static(
            ready,
            packed,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        logging.disable(logging.NOTSET)
        return onnx_session(packed, inputs, threads)


def openvino_default(program: Program, inputs: Arrays, threads: int, data: Data) -> Call:
    """OpenVINO as it comes; it picks bfloat16 where the processor has it."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(program, inputs, path)
        return openvino_call(openvino.convert_model(str(path)), inputs, threads, {})


def openvino_int8(program: Program, inputs: Arrays, threads: int, data: Data) -> Call:
    """OpenVINO with NNCF's post-training quantization."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    is_text = any(np.issubdtype(value.dtype, np.integer) for value in inputs.values())
    settings = {"model_type": nncf.ModelType.TRANSFORMER} if is_text else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(program, inputs, path)
        model = nncf.quantize(
            openvino.convert_model(str(path)), nncf.Dataset(list(data())), **settings
        )
        return openvino_call(model, inputs, threads, {})


def torch_compiled(program: Program, inputs: Arrays, threads: int) -> Call:
    """PyTorch's own compiler on the program."""
    import torch

    module = torch.fx.GraphModule(program.methods[FORWARD], program.methods[FORWARD].graph)
    arguments = [torch.from_numpy(inputs[spec.name]) for spec in program.signature.inputs]
    names = [spec.name for spec in program.signature.outputs]
    torch.set_num_threads(threads)
    compiled = torch.compile(module, dynamic=False)

    def call() -> Arrays:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results = compiled(*arguments)
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}

    return call
