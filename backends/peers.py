"""Other runtimes on this machine, to measure against: each gets the same program and inputs.

They come with the extra `[bench]` and are imported only when asked for.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.ir.errors import EffcError, ModelError, UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.program import FORWARD, Program
from effc.ir.trace import open_model
from effc.ir.trace.failures import one_line
from effc.ir.trace.quiet import quiet

Arrays = dict[str, np.ndarray]
Call = Callable[[], Arrays]
ONNX, ARCHIVE, OPENVINO = "model.onnx", "model.pt2", "model.xml"


@dataclass(frozen=True)
class Peer:
    """A runtime that can run a program.

    Attributes:
        name: As on the command line.
        package: What must be installed.
        export: Writes a program for inputs of some sizes into a folder, in the runtime's own form.
        opener: From such a folder, inputs and a number of threads to a call that runs once.
    """

    name: str
    package: str
    export: Callable[[Program, Arrays, Path], None]
    opener: Callable[[Path, Arrays, int], Call]

    def open(self, folder: Path, inputs: Arrays, threads: int) -> Call:
        """Prepare to run what `export_peer` wrote.

        Raises:
            ModelError: If the peer cannot take it.
        """
        try:
            return self.opener(folder, inputs, threads)
        except EffcError:
            raise
        except Exception as error:  # runtimes raise whatever they raise
            raise _refusal(self.name, error) from error


def peer_of(name: str) -> Peer:
    """A peer by name.

    Raises:
        UsageError: If there is none of that name, or its package is missing.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer {name!r}; there are: {', '.join(PEERS)}")
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is None:
        raise UsageError(f"peer {name} needs {peer.package}: pip install effc[bench]")
    return peer


def export_peer(peer: Peer, program: Program, inputs: Arrays, folder: Path) -> None:
    """Write a program in a peer's form.

    Raises:
        ModelError: If the peer cannot take it.
    """
    try:
        peer.export(program, inputs, folder)
    except EffcError:
        raise
    except Exception as error:  # exporters raise whatever they raise
        raise _refusal(peer.name, error) from error


def _refusal(name: str, error: Exception) -> ModelError:
    return ModelError(f"peer {name} cannot take the model: {one_line(error)}")


def peer_call(name: str, program: Program, inputs: Arrays, threads: int) -> Call:
    """Prepare a peer.

    Raises:
        UsageError: If there is none of that name, or its package is missing.
        ModelError: If it cannot take the program.
    """
    peer = peer_of(name)
    with tempfile.TemporaryDirectory() as folder:
        export_peer(peer, program, inputs, Path(folder))
        return peer.open(Path(folder), inputs, threads)


def export_onnx(program: Program, inputs: Arrays, path: Path) -> None:
    """Write a program as ONNX at the sizes of the inputs, with PyTorch's own exporter."""
    arguments = tuple(torch.from_numpy(inputs[spec.name]) for spec in program.signature.inputs)
    module = torch.fx.GraphModule(program.methods[FORWARD], program.methods[FORWARD].graph)
    with quiet():
        exported = torch.export.export(module, arguments)
        torch.onnx.export(
            exported,
            f=str(path),
            dynamo=True,
            input_names=[spec.name for spec in program.signature.inputs],
            output_names=[spec.name for spec in program.signature.outputs],
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


def _export_openvino(program: Program, inputs: Arrays, folder: Path) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(program, inputs, Path(scratch) / ONNX)
        model = openvino.convert_model(str(Path(scratch) / ONNX))
        openvino.save_model(model, str(folder / OPENVINO), compress_to_fp16=False)


def _open_openvino(folder: Path, inputs: Arrays, threads: int) -> Call:
    import openvino

    model: Any = openvino.Core().read_model(str(folder / OPENVINO))
    return openvino_call(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _open_torch(folder: Path, inputs: Arrays, threads: int) -> Call:
    program = open_model(folder / ARCHIVE)
    arguments = [torch.from_numpy(inputs[spec.name]) for spec in program.signature.inputs]
    outputs = [spec.name for spec in program.signature.outputs]

    def call() -> Arrays:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results = program.forward(*arguments)
        return {name: value.numpy() for name, value in zip(outputs, results, strict=True)}

    return call


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "torch",
            "torch",
            lambda program, inputs, folder: save_program(program, folder / ARCHIVE),
            _open_torch,
        ),
        Peer(
            "onnxruntime",
            "onnxruntime",
            lambda program, inputs, folder: export_onnx(program, inputs, folder / ONNX),
            lambda folder, inputs, threads: onnx_session(folder / ONNX, inputs, threads),
        ),
        Peer("openvino", "openvino", _export_openvino, _open_openvino),
    )
}
