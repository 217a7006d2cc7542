"""The kernels of a built program, ready to be measured one by one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.backends.tuning.search import Measure
from effc.backends.tvm_cpu.build import fused_program
from effc.backends.tvm_cpu.trials import KernelBench
from effc.codegen import select
from effc.codegen.cases import Recorder
from effc.codegen.isa import Isa
from effc.codegen.schedule import Space
from effc.ir.program import FORWARD, Program, bind_sizes
from effc.ir.target import Target
from effc.passes.lower.placement import place


@dataclass
class CpuSubject:
    """A program on a processor; see `effc.backends.tuning.tuner.Subject`.

    Attributes:
        program: Cleaned, and quantized or not.
        target: What it is built for; must run here.
        inputs: What it is measured on.
        folder: Where to work.
        seconds: Measures every kernel's time in the model.
    """

    program: Program
    target: Target
    inputs: dict[str, np.ndarray]
    folder: Path
    seconds: Callable[[], dict[str, float]]
    _recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        fused, _ = fused_program(self.program, self.target)
        sizes = bind_sizes(self.program.signature, self.program.symbols, self.inputs)
        tensors = {name: torch.from_numpy(value) for name, value in self.inputs.items()}
        self._recorder = Recorder(fused, FORWARD, place(fused, FORWARD), tensors, sizes)

    def spaces(self) -> dict[str, tuple[str, Space]]:
        """Family and space of every kernel, by fingerprint."""
        isa = Isa.of(self.target)
        return {
            key: (select.family_of(call.region), select.space(call.region, isa))
            for key, call in self._recorder.kernels.items()
        }

    def profile(self) -> dict[str, float]:
        """Seconds every kernel takes in the model, over all its calls."""
        return self.seconds()

    def benches(self, kernels: list[str]) -> Iterator[tuple[str, Measure]]:
        """What measures each of some kernels."""
        symbols = list(self.program.symbols.values())
        with KernelBench(self.target, symbols, self.folder) as bench:
            cases = self._recorder.cases(kernels)
            for key in kernels:
                yield key, partial(bench.measure, cases.pop(key))


def kernel_seconds(
    steps: list[tuple[str, float]], kernels: list[dict[str, Any]]
) -> dict[str, float]:
    """Seconds by kernel from those of every step and what the build noted of it."""
    found: dict[str, float] = {}
    for (_, seconds), note in zip(steps, kernels, strict=True):
        found[note["kernel"]] = found.get(note["kernel"], 0.0) + seconds
    return found
