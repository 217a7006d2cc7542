"""Builds small modules for the CPU and compares what they compute with PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import effc.ir.ops
from effc.backends.artifact import MANIFEST, manifest_of
from effc.backends.runner import Model
from effc.backends.tvm_cpu.build import build
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import Tolerance, assert_close
from effc.ir.trace.exported import program_of
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

assert effc.ir.ops  # registers effc's operators

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Compiled:
    """A small program and its build."""

    program: Program
    model: Model

    def check(self, inputs: Tensors, tolerance: Tolerance) -> None:
        """Compare the build with the program on some inputs."""
        found = self.model.run({name: value.numpy() for name, value in inputs.items()})
        for name, expected in self.program.run(inputs).items():
            assert_close(name, expected, torch.from_numpy(found[name]), tolerance)

    def outputs(self, inputs: Tensors) -> dict[str, np.ndarray]:
        """What the build computes."""
        return self.model.run({name: value.numpy() for name, value in inputs.items()})


Compile = Callable[..., Compiled]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """A function that builds a module: `compiled(module, inputs, target=..., dynamic=...)`."""
    count = 0

    def make(
        module: torch.nn.Module | Program,
        inputs: Tensors | None = None,
        target: str = "native",
        dynamic: dict[str, Any] | None = None,
        passes: str = CLEAN,
        threads: int = 2,
        calibration: list[Tensors] | None = None,
    ) -> Compiled:
        nonlocal count
        count += 1
        program = module if isinstance(module, Program) else traced(module, inputs or {}, dynamic)
        context = PassContext(calibration=calibration)
        program = PassManager.parse(passes).run(program, context).program
        folder = tmp_path / f"build-{count}"
        folder.mkdir()
        wanted = Target.parse(target)
        build(program, wanted, folder)
        manifest = manifest_of(program, wanted, folder, "test")
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        return Compiled(program, Model(folder, threads))

    return make


def traced(module: torch.nn.Module, inputs: Tensors, dynamic: dict[str, Any] | None) -> Program:
    """Trace a module called with keyword arguments."""
    exported = torch.export.export(module.eval(), (), inputs, dynamic_shapes=dynamic, strict=False)
    return program_of(exported, type(module).__name__)


@pytest.fixture(params=["native", "x86-64-v3"])
def target(request: pytest.FixtureRequest) -> str:
    """The widest vectors this machine has, and AVX2 without masks."""
    return request.param
