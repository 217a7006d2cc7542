"""Builds a program for a processor: lowering, kernels, driver, weights."""

from dataclasses import dataclass
from pathlib import Path

from effc.backends.tvm_cpu.link import link
from effc.backends.tvm_cpu.weights import write_weights
from effc.codegen import driver
from effc.codegen.driver.emit import driver_source, weight_layout
from effc.codegen.executable import Executable, executable_of
from effc.codegen.objects import write_object
from effc.ir.program import FORWARD, Program
from effc.ir.target import Target
from effc.passes.base import PassContext
from effc.passes.lower.pipeline import LOWER
from effc.passes.lower.placement import place
from effc.passes.manager import PassManager
from effc.passes.report import PassRow

LIBRARY, WEIGHTS, HEADER = "model.so", "weights.safetensors", "effc.h"
DRIVER = Path(driver.__file__).parent


@dataclass(frozen=True)
class Built:
    """What `build` made.

    Attributes:
        lowered: The lowered program; it still runs in PyTorch.
        executable: Its steps and memory plan.
        rows: The passes of the lowering pipeline.
    """

    lowered: Program
    executable: Executable
    rows: tuple[PassRow, ...]


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
    report = PassManager.parse(LOWER).run(program, PassContext(target=target))
    lowered = report.program
    placements = place(lowered, FORWARD)
    executable = executable_of(lowered, FORWARD, placements, target)
    work = folder / "build"
    work.mkdir(exist_ok=True)
    kernels, source = work / "kernels.o", work / "model.c"
    write_object(list(executable.stages.values()), target, kernels)
    offsets, nbytes = weight_layout(executable.weights)
    symbols = list(lowered.symbols.values())
    source.write_text(driver_source(executable, symbols, target, offsets, nbytes))
    link(source, [kernels], DRIVER, folder / LIBRARY)
    write_weights(executable.weights, folder / WEIGHTS)
    (folder / HEADER).write_text((DRIVER / HEADER).read_text())
    return Built(lowered, executable, report.rows)
