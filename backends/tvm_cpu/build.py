"""Builds a program for a processor: lowering, kernels, driver, weights."""

import shutil
from pathlib import Path
from typing import Any

from effc.backends.base import Built
from effc.backends.tvm_cpu.link import link
from effc.backends.tvm_cpu.weights import write_weights
from effc.codegen import coverage, driver
from effc.codegen.driver.emit import driver_source, weight_layout
from effc.codegen.executable import Executable, executable_of
from effc.codegen.objects import write_object
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
    """Every operator there is no kernel for, without building anything."""
    spelled = PassManager.parse(SPELL_OUT).run(program, PassContext(target=target)).program
    found = coverage.unsupported(spelled)
    if found:
        return found
    try:
        _assemble(spelled, target)
    except UnsupportedError as error:
        return error.operators
    return []


def build(program: Program, target: Target, folder: Path) -> Built:
    """Build the method `forward` of a program into a folder.

    Args:
        program: Cleaned, and quantized or not.
        target: What to build for.
        folder: Where `model.so`, `weights.safetensors` and `effc.h` go; must exist.

    Raises:
        UnsupportedError: Listing every operator there is no kernel for.
        BuildError: If code generation, compiling or linking fails.
    """
    report = PassManager.parse(SPELL_OUT).run(program, PassContext(target=target))
    missing = coverage.unsupported(report.program)
    if missing:
        raise UnsupportedError(f"target {target}", missing)
    executable, row = _assemble(report.program, target)
    work = folder / "build"
    work.mkdir(exist_ok=True)
    kernels, source = work / "kernels.o", work / "model.c"
    write_object(list(executable.stages.values()), target, kernels)
    offsets, nbytes = weight_layout(executable.weights)
    symbols = list(program.symbols.values())
    source.write_text(driver_source(executable, symbols, target, offsets, nbytes))
    link(source, [kernels], DRIVER, folder / LIBRARY)
    write_weights(executable.weights, folder / WEIGHTS)
    shutil.copyfile(DRIVER / HEADER, folder / HEADER)
    shutil.rmtree(work)
    return Built((*report.rows, *row), _kernel_notes(executable), _memory_notes(executable))


def _assemble(spelled: Program, target: Target) -> tuple[Executable, tuple[PassRow, ...]]:
    """Fuse regions, lay them out and make their kernels."""
    fused = PassManager.parse(FUSE).run(spelled, PassContext(target=target))
    placements = place(fused.program, FORWARD)
    return executable_of(fused.program, FORWARD, placements, target), fused.rows


def _kernel_notes(executable: Executable) -> list[dict[str, Any]]:
    return [
        {"step": number, "family": step.family, "source": step.name, "function": step.stage.symbol}
        for number, step in enumerate(executable.steps)
    ]


def _memory_notes(executable: Executable) -> dict[str, Any]:
    return {
        "arena_nbytes": executable.memory.nbytes,
        "weight_nbytes": sum(value.nbytes for value in executable.weights.values()),
        "functions": len(executable.stages),
    }
