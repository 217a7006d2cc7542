"""Other runtimes on this machine, to measure against: each gets the same program and inputs.

They come with the extra `[bench]` and are imported only when asked for.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from effc.ir.errors import UsageError
from effc.ir.program import FORWARD, Program

Arrays = dict[str, np.ndarray]
Call = Callable[[], Arrays]


@dataclass(frozen=True)
class Peer:
    """A runtime that can run a program.

    Attributes:
        name: As on the command line.
        package: What must be installed.
        prepare: From a program, inputs and a number of threads to a call that runs once.
    """

    name: str
    package: str
    prepare: Callable[[Program, Arrays, int], Call]


def peer_call(name: str, program: Program, inputs: Arrays, threads: int) -> Call:
    """Prepare a peer.

    Raises:
        UsageError: If there is none of that name, or its package is missing.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer {name!r}; there are: {', '.join(PEERS)}")
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is None:
        raise UsageError(f"peer {name} needs {peer.package}: pip install effc[bench]")
    return peer.prepare(program, inputs, threads)


def export_onnx(program: Program, inputs: Arrays, path: Path) -> None:
    """Write a program as ONNX at the sizes of the inputs, with PyTorch's own exporter."""
    arguments = tuple(torch.from_numpy(inputs[spec.name]) for spec in program.signature.inputs)
    module = torch.fx.GraphModule(program.methods[FORWARD], program.methods[FORWARD].graph)
    exported = torch.export.export(module, arguments)
    names = [spec.name for spec in program.signature.inputs]
    outputs = [spec.name for spec in program.signature.outputs]
    torch.onnx.export(
        exported,
        f=str(path),
        dynamo=True,
        input_names=names,
        output_names=outputs,
        verbose=False,
    )


def onnx_session(path: Path, inputs: Arrays, threads: int) -> Call:
    """Run an ONNX file in ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    taken = {entry.name for entry in session.get_inputs()}
    given = {name: value for name, value in inputs.items() if name in taken}
    names = [entry.name for entry in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, given), strict=True))


def _onnxruntime(program: Program, inputs: Arrays, threads: int) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(program, inputs, path)
        return onnx_session(path, inputs, threads)


def openvino_call(model: object, inputs: Arrays, threads: int, hints: dict[str, str]) -> Call:
    """Run a model in OpenVINO."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY", **hints}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    compiled_inputs = {entry.any_name for entry in request.model_inputs}
    given = {name: value for name, value in inputs.items() if name in compiled_inputs}

    def call() -> Arrays:
        results = request.infer(given)
        return {key.any_name: value for key, value in results.items()}

    return call


def _openvino(program: Program, inputs: Arrays, threads: int) -> Call:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(program, inputs, path)
        model = openvino.convert_model(str(path))
        return openvino_call(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _torch(program: Program, inputs: Arrays, threads: int) -> Call:
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    module, names = program.forward, [spec.name for spec in program.signature.inputs]
    outputs = [spec.name for spec in program.signature.outputs]

    def call() -> Arrays:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results = module(*[tensors[name] for name in names])
        return {name: value.numpy() for name, value in zip(outputs, results, strict=True)}

    return call


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torch", "torch", _torch),
        Peer("onnxruntime", "onnxruntime", _onnxruntime),
        Peer("openvino", "openvino", _openvino),
    )
}
