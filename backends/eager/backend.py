"""The eager backend: the program itself in PyTorch, as the reference and for targets to come."""

import time
from pathlib import Path

import numpy as np
import torch

from effc.backends.artifact import Manifest
from effc.backends.base import Built, without_arrays
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import ArtifactError, Unsupported, UnsupportedError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target

MODEL = "model.pt2"


class EagerBackend:
    """Saves a program as `.pt2` and runs it in PyTorch."""

    def unsupported(self, program: Program, target: Target) -> list[Unsupported]:
        """Only inputs and outputs without arrays: PyTorch traced the rest, PyTorch runs it."""
        return without_arrays(program)

    def build(
        self, program: Program, target: Target, folder: Path, chosen: Chosen = nothing_chosen
    ) -> Built:
        """Write `model.pt2`; there are no kernels to choose schedules for.

        Raises:
            UnsupportedError: If the program takes or gives types that numpy has no arrays of.
        """
        from effc.ir.export.pt2 import save_program

        if missing := self.unsupported(program, target):
            raise UnsupportedError(f"target {target}", missing)
        save_program(program, folder / MODEL)
        return Built()

    def peaks(self, target: Target, threads: int) -> None:
        """Not known."""

    def open(
        self, folder: Path, manifest: Manifest, threads: int, bits: int = 0, depth: int = 0
    ) -> "EagerSession":
        """Load `model.pt2`.

        Raises:
            ArtifactError: If it is not there.
            UsageError: If a width of the weights or a depth is asked for.
        """
        if bits or depth:
            what = "its weights have one width" if bits else "it has one depth"
            raise UsageError(f"{folder} runs in PyTorch: {what}")
        if MODEL not in manifest.files:
            raise ArtifactError(f"{folder} is incomplete: its manifest lists no {MODEL}")
        return EagerSession(folder / MODEL)


class EagerSession:
    """Runs a program in PyTorch.

    Args:
        path: The `.pt2` file.
    """

    def __init__(self, path: Path) -> None:
        from effc.ir.trace import open_model

        self._opened: Program | None = open_model(path)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on checked inputs."""
        dense = {name: np.require(value, None, ["C", "A", "W"]) for name, value in inputs.items()}
        tensors = {name: torch.from_numpy(value) for name, value in dense.items()}
        outputs = self._program.run(tensors)  # may be views of inputs and weights
        return {name: np.array(value.numpy(), order="C") for name, value in outputs.items()}

    def profile(self, inputs: dict[str, np.ndarray]) -> list[tuple[str, float]]:
        """Seconds of one run as a whole; PyTorch's operators are not told apart."""
        started = time.perf_counter()
        self.run(inputs)
        return [("eager forward", time.perf_counter() - started)]

    @property
    def memory_nbytes(self) -> int:
        """Bytes of weights; 0 once closed."""
        return self._opened.weight_nbytes if self._opened else 0

    def close(self) -> None:
        """Let go of the program."""
        self._opened = None

    @property
    def _program(self) -> Program:
        if self._opened is None:
            raise UsageError("the model is closed; load it again with effc.load")
        return self._opened
