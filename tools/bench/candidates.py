"""Everything that runs a model of the suite: effc's builds and the peers."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.compiling import Compiled, compile_artifact
from bench.models import Entry
from bench.tuned_peers import (
    onnxruntime_dynamic,
    onnxruntime_static,
    openvino_default,
    openvino_int8,
    torch_compiled,
)
from effc.backends.peers import Arrays, Call, peer_call
from effc.backends.runner import Model
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.ir.trace.factory import look_up
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.sample import sample_inputs, sample_sizes

WORK = Path("out/bench")
PASSES = {"float32": "remove-dead", "bfloat16": "bfloat16", "int8": "quantize"}
Say = Callable[[str], None]


@dataclass
class Subject:
    """One model at one batch size.

    Attributes:
        entry: The model.
        batch: The batch size.
        threads: For how many threads effc builds.
        say: Told what is being done.
    """

    entry: Entry
    batch: int
    threads: int
    say: Say

    @cached_property
    def program(self) -> Program:
        """The clean float32 program, which every peer gets."""
        return cleaned(open_model(self.entry.model(self.batch)), no_progress).program

    @cached_property
    def inputs(self) -> Arrays:
        """What all candidates run on."""
        sizes = {name: self.batch for name in self.program.symbols if "batch" in name}
        return sample_inputs(self.program, sample_sizes(self.program, sizes))

    @cached_property
    def builds(self) -> dict[str, Compiled]:
        """Artifacts by precision."""
        return {name: self._built(name, passes) for name, passes in PASSES.items()}

    def calls(self, threads: int) -> dict[str, Call]:
        """Every candidate that can run the model, by name."""
        calls: dict[str, Call] = {}
        for name, build in self.builds.items():
            loaded = Model(build.folder, threads)
            calls[f"effc {name}"] = lambda loaded=loaded: loaded.run(self.inputs)
        return calls | self._peers(threads)

    def data(self) -> Iterable[Arrays]:
        """Calibration data for peers, at the sizes of the inputs."""
        for batch in look_up(self.entry.calib(self.batch))():
            known = {name: value for name, value in batch.items() if name in self.inputs}
            yield {name: _fitted(value, self.inputs[name].shape) for name, value in known.items()}

    def _built(self, name: str, passes: str) -> Compiled:
        self.say(f"compiling {name}")
        options = ["--threads", str(self.threads), "--keep-going", "--no-resume", "-p", passes]
        options += ["--calib", self.entry.calib(self.batch)] if name == "int8" else []
        folder = WORK / f"{self.entry.name.replace(' ', '-')}-{self.batch}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        return compile_artifact(self.entry.model(self.batch), folder, *options)

    def _peers(self, threads: int) -> dict[str, Call]:
        program, inputs, data = self.program, self.inputs, self.data
        makers: dict[str, Callable[[], Call]] = {
            "ONNX Runtime float32": lambda: peer_call("onnxruntime", program, inputs, threads),
            "ONNX Runtime int8 static": lambda: onnxruntime_static(program, inputs, threads, data),
            "ONNX Runtime int8 dynamic": lambda: onnxruntime_dynamic(
                program, inputs, threads, data
            ),
            "OpenVINO float32": lambda: peer_call("openvino", program, inputs, threads),
            "OpenVINO default": lambda: openvino_default(program, inputs, threads, data),
            "OpenVINO int8": lambda: openvino_int8(program, inputs, threads, data),
            "PyTorch eager": lambda: peer_call("torch", program, inputs, threads),
            "PyTorch compiled": lambda: torch_compiled(program, inputs, threads),
        }
        calls: dict[str, Call] = {}
        for name, make in makers.items():
            self.say(f"preparing {name}")
            try:
                calls[name] = make()
                calls[name]()
            except Exception as error:  # a peer that cannot do it is left out, and that is said
                calls.pop(name, None)
                reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
                self.say(f"{name} cannot run it: {reason}")
        return calls


def _fitted(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat or cut an array to a shape."""
    repeats = [-(-wanted // found) for wanted, found in zip(shape, value.shape, strict=True)]
    return np.ascontiguousarray(np.tile(value, repeats)[tuple(slice(size) for size in shape)])
