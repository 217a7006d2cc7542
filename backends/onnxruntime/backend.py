"""The ONNX Runtime backend: a standard ONNX model, and the settings its sessions need."""

import json
from pathlib import Path
from typing import Any

from effc.backends.artifact import Manifest
from effc.backends.base import Built, without_arrays
from effc.backends.onnxruntime.session import EXACT_BLOCKS, MODEL, SETTINGS, OnnxRuntimeSession
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import Unsupported, UnsupportedError, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.manager import PassManager

SPELL_OUT = "decompose-rare,fold-constants,remove-dead"


class OnnxRuntimeBackend:
    """Writes a program as ONNX and runs it in ONNX Runtime."""

    def unsupported(self, program: Program, target: Target) -> list[Unsupported]:
        """Every operator that has no form in ONNX."""
        return [*without_arrays(program), *written_as(program)[1]]

    def build(
        self, program: Program, target: Target, folder: Path, chosen: Chosen = nothing_chosen
    ) -> Built:
        """Write `model.onnx` and `session.json`; there are no kernels to choose schedules for.

        Raises:
            UnsupportedError: Listing every operator that has no form in ONNX.
        """
        from effc.ir.export.onnx import runtime_environment, save_onnx

        exportable, missing = written_as(program)
        if missing := [*without_arrays(program), *missing]:
            raise UnsupportedError(f"target {target}", missing)
        model = save_onnx(exportable, folder / MODEL)
        opset = model.opset_import[0].version
        settings = {
            "opset": opset, "ir_version": model.ir_version, "config": EXACT_BLOCKS,
            "environment": runtime_environment(opset),
        }  # fmt: skip
        (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")
        return Built(memory={"weight_nbytes": program.weight_nbytes})

    def peaks(self, target: Target, threads: int) -> dict[str, Any] | None:
        """Not known."""
        return None

    def open(
        self, folder: Path, manifest: Manifest, threads: int, bits: int = 0, depth: int = 0
    ) -> OnnxRuntimeSession:
        """Load the model.

        Raises:
            UsageError: If a width of the weights or a depth is asked for.
        """
        if bits or depth:
            what = "its weights have one width" if bits else "it has one depth"
            raise UsageError(f"{folder} runs in ONNX Runtime: {what}")
        return OnnxRuntimeSession(folder, manifest, threads)


def written_as(program: Program) -> tuple[Program, list[Unsupported]]:
    """The program as it can be written, and what cannot even where rare operators are spelled out.

    Operators are spelled out only where ONNX lacks some of them.
    """
    from effc.ir.export.onnx import unsupported

    missing = unsupported(program)
    if not missing:
        return program, []
    report = PassManager.parse(SPELL_OUT).run(program, PassContext())
    return report.program, unsupported(report.program)
