"""What a backend is: it builds a program for a target and opens what it built."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import TargetError, Unsupported
from effc.ir.program import Program, dtype_name
from effc.ir.target import Target
from effc.passes.report import PassRow

BACKENDS = {
    "tvm_cpu": "effc.backends.tvm_cpu.backend:CpuBackend",
    "eager": "effc.backends.eager.backend:EagerBackend",
    "onnxruntime": "effc.backends.onnxruntime.backend:OnnxRuntimeBackend",
}


WITHOUT_ARRAYS = (
    torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """What a backend made.

    Attributes:
        rows: The passes of its lowering pipeline.
        kernels: One entry per kernel, JSON-able: family, source, multiply-adds.
        memory: What is known of its memory before it runs, JSON-able.
    """

    rows: tuple[PassRow, ...] = ()
    kernels: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """An opened build, ready to run."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once on checked inputs."""

    def profile(self, inputs: dict[str, np.ndarray]) -> list[tuple[str, float]]:
        """Seconds per step of one run, with the step's name."""

    @property
    def memory_nbytes(self) -> int:
        """Bytes of weights and working memory of the last run."""

    def close(self) -> None:
        """Free everything."""


class Backend(Protocol):
    """One device family."""

    def unsupported(self, program: Program, target: Target) -> list[Unsupported]:
        """Every operator the backend has no kernel for."""

    def build(
        self, program: Program, target: Target, folder: Path, chosen: Chosen = nothing_chosen
    ) -> Built:
        """Build into an existing folder, with schedules chosen for some kernels."""

    def peaks(self, target: Target, threads: int) -> dict[str, Any] | None:
        """What the machine reaches at most, measured; None where that is not known."""

    def open(
        self, folder: Path, manifest: Any, threads: int, bits: int = 0, depth: int = 0
    ) -> Session:
        """Open what `build` made; with `bits` or `depth`, that form of an elastic artifact."""


def backend_of(name: str) -> Backend:
    """The backend of a name.

    Raises:
        TargetError: If there is none.
    """
    if name not in BACKENDS:
        raise TargetError(f"unknown backend {name!r}; there are: {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend


def without_arrays(program: Program) -> list[Unsupported]:
    """Inputs and outputs of element types a caller has no arrays of."""
    signature = program.signature
    named = [("input", spec) for spec in signature.inputs]
    named += [("output", spec) for spec in signature.outputs]
    return [
        Unsupported(
            f"{kind} {spec.name}", "", f"{dtype_name(spec.dtype)} arrays have no numpy form"
        )
        for kind, spec in named
        if spec.dtype in WITHOUT_ARRAYS
    ]
