"""Builds a program for a processor: lowering, kernels, driver, weights."""

import shutil
from pathlib import Path
from typing import Any

from effc.backends.base import Built, without_arrays
from effc.backends.tvm_cpu.link import link
from effc.backends.tvm_cpu.weights import weight_header, write_weights
from effc.codegen import coverage, driver
from effc.codegen.driver.emit import driver_source
from effc.codegen.driver.weights import WeightFile
from effc.codegen.executable import Choice, Executable, executable_of
from effc.codegen.objects import write_object
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import Unsupported, UnsupportedError
from effc.ir.program import FORWARD, Program
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.lower.pipeline import FUSE, SPELL_OUT
from effc.passes.lower.placement import place
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

LIBRARY, WEIGHTS, HEADER = "model.so", "weights.safetensors", "effc.h"
DRIVER = Path(driver.__file__).parent


def unsupported(program: Program, target: Target) -> list[Unsupported]:
    """Every operator there is no kernel for, without compiling anything."""
    try:
        lowered(program, target)
    except UnsupportedError as error:
        return error.operators
    return []


def build(program: Program, target: Target, folder: Path, chosen: Chosen = nothing_chosen) -> Built:
    """Build the method `forward` of a program into a folder.

    Args:
        program: Cleaned, and quantized or not.
        target: What to build for.
        folder: Where `model.so`, `weights.safetensors` and `effc.h` go; must exist.
        chosen: Schedules of kernels, by the fingerprint of their regions.

    Raises:
        UnsupportedError: Listing every operator there is no kernel for.
        BuildError: If code generation, compiling or linking fails.
    """
    executable, rows = lowered(program, target, chosen)
    work = folder / "build"
    work.mkdir()
    source, kernels = write_sources(executable, program, target, work)
    link(source, [kernels], DRIVER, folder / LIBRARY)
    write_weights(executable.weights, folder / WEIGHTS)
    shutil.copyfile(DRIVER / HEADER, folder / HEADER)
    shutil.rmtree(work)
    return Built(rows, _kernel_notes(executable), _memory_notes(executable))


def lowered(
    program: Program, target: Target, chosen: Chosen = nothing_chosen
) -> tuple[Executable, tuple[PassRow, ...]]:
    """The kernels and the memory plan of a program, and the passes that led there.

    Raises:
        UnsupportedError: Listing every operator there is no kernel for.
    """
    fused, rows = fused_program(program, target)
    placements = place(fused, FORWARD)
    return executable_of(fused, FORWARD, placements, target, chosen), rows


def fused_program(program: Program, target: Target) -> tuple[Program, tuple[PassRow, ...]]:
    """The program as regions that one kernel each computes.

    Raises:
        UnsupportedError: Listing every operator there is no kernel for.
    """
    report = PassManager.parse(SPELL_OUT).run(program, PassContext(target=target))
    missing = [*without_arrays(program), *coverage.unsupported(report.program)]
    if missing:
        raise UnsupportedError(f"target {target}", missing)
    fused = PassManager.parse(FUSE).run(report.program, PassContext(target=target))
    return fused.program, (*report.rows, *fused.rows)


def write_sources(
    executable: Executable, program: Program, target: Target, work: Path
) -> tuple[Path, Path]:
    """Write what the library is linked from: the driver's source and the kernels' object file."""
    source, kernels = work / "model.c", work / "kernels.o"
    write_object(list(executable.stages.values()), target, kernels)
    weights = WeightFile.of(executable.weights, weight_header(executable.weights))
    symbols = list(program.symbols.values())
    source.write_text(driver_source(executable, symbols, target, weights))
    return source, kernels


def _kernel_notes(executable: Executable) -> list[dict[str, Any]]:
    return [
        {
            "step": number,
            "family": step.family,
            "source": step.name,
            "function": step.stage.symbol,
            "macs": str(step.work.macs),
            "nbytes": str(step.work.nbytes),
            "precision": step.work.precision,
            "kernel": step.choice.key,
            "schedule": _schedule_notes(step.choice),
        }
        for number, step in enumerate(executable.steps)
    ]


def _schedule_notes(choice: Choice) -> dict[str, int] | None:
    return None if choice.schedule is None else choice.schedule.values()


def _memory_notes(executable: Executable) -> dict[str, Any]:
    return {
        "arena_nbytes": executable.memory.nbytes,
        "live_nbytes": executable.memory.live_nbytes,
        "weight_nbytes": sum(value.nbytes for value in executable.weights.values()),
        "functions": len(executable.stages),
    }
