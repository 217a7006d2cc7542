"""The CPU backend: LLVM kernels and a C driver in one shared library.

Opening a build needs no compiler, so the compiler is imported only for building.
"""

from pathlib import Path
from typing import Any

from effc.backends.artifact import Manifest
from effc.backends.base import Built
from effc.backends.tvm_cpu.session import CpuSession
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import Unsupported
from effc.ir.program import Program
from effc.ir.target import Target


class CpuBackend:
    """Builds for x86-64."""

    def unsupported(self, program: Program, target: Target) -> list[Unsupported]:
        """Every operator there is no kernel for."""
        from effc.backends.tvm_cpu.build import unsupported

        return unsupported(program, target)

    def build(
        self, program: Program, target: Target, folder: Path, chosen: Chosen = nothing_chosen
    ) -> Built:
        """Write `model.so`, `weights.safetensors` and `effc.h`."""
        from effc.backends.tvm_cpu.build import build

        return build(program, target, folder, chosen)

    def peaks(self, target: Target, threads: int) -> dict[str, Any] | None:
        """Multiply-adds per second by precision, bytes per second from memory."""
        from effc.backends.tvm_cpu.peaks import measured_peaks

        return vars(measured_peaks(target, threads))

    def open(
        self, folder: Path, manifest: Manifest, threads: int, bits: int = 0, depth: int = 0
    ) -> CpuSession:
        """Load the library, or that of another width of the weights or of fewer blocks."""
        return CpuSession(folder, manifest, threads, bits, depth)
