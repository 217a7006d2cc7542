"""No kernel reads or writes beyond a buffer: pages that end the process lie around each of them."""

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from effc.backends.tvm_cpu.build import lowered
from effc.backends.tvm_cpu.weights import weight_header
from effc.codegen.driver.emit import driver_source
from effc.codegen.driver.weights import WeightFile
from effc.codegen.executable import Executable
from effc.codegen.memory import MemoryPlan
from effc.codegen.objects import write_object
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import Tolerance, assert_close, traced
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.manager import PassManager

HERE = Path(__file__).parent
PAGE, ALIGN = 4096, 64
MODULES = ["maps", "rows"]
LOW_BIT = ["lowbit", "planes"]
KINDS = {
    "float32": CLEAN,
    "bfloat16": f"{CLEAN},bfloat16",
    "int8": f"{CLEAN},quantize{{activations=dynamic}}",
    "static": f"{CLEAN},quantize",
    "lowbit": f"{CLEAN},quantize-weights{{symmetric=false}}",
    "planes": f"{CLEAN},quantize-weights{{scheme=ternary activations=float32}}",
}
CLOSE = {"float32": Tolerance(relative=1e-4), "bfloat16": Tolerance(relative=3e-2)}
FAMILIES = "matmul conv2d depthwise attention rows reduce pool elementwise scan".split()


def offsets_of(sizes: dict[str, int], at_end: bool) -> tuple[dict[str, int], list[int]]:
    """Where buffers lie if each stands alone between untouchable pages, and where these are."""
    offsets, guards = {}, [0]
    for name, nbytes in sizes.items():
        room = -(-nbytes // PAGE) * PAGE
        start = guards[-1] + PAGE
        offsets[name] = start + room - nbytes if at_end else start
        guards.append(start + room)
    return offsets, guards


@dataclasses.dataclass
class Guarded:
    """A model whose buffers lie apart.

    Attributes:
        executable: Its kernels.
        program: What it computes.
        folder: With its `kernels.o`.
        driver: The folder of `runtime.c`.
        target: What it was built for.
    """

    executable: Executable
    program: Program
    folder: Path
    driver: Path
    target: Target

    def run(
        self, x: Tensor, at_end: bool, arena_lacks: int = 0, weights_lack: int = 0
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run it in a process of its own, and let buffers lack bytes to see what happens."""
        memory = self.executable.memory
        sizes = {str(n): int(slot[0]) - arena_lacks for n, slot in enumerate(memory.slots)}
        offsets, guards = offsets_of(sizes, at_end)
        nbytes = guards[-1] + PAGE
        plan = MemoryPlan(memory.slot_of, memory.slots, list(offsets.values()), nbytes)
        weights = self._weights(at_end, weights_lack)
        arrays = "".join(
            f"static const int64_t {name}_guards[] = {{{', '.join(map(str, pages))}, -1}};\n"
            for name, pages in (("arena", guards), ("weight", weights[1]))
        )
        (self.folder / "guards.h").write_text(f"enum {{ AT_END = {int(at_end)} }};\n{arrays}")
        executable = dataclasses.replace(self.executable, memory=plan)
        symbols = list(self.program.symbols.values())
        source = driver_source(executable, symbols, self.target, weights[0])
        (self.folder / "model.c").write_text(source)
        command = ["gcc", "-O1", f"-I{self.driver}", f"-I{self.folder}", HERE / "guard.c"]
        program = self.folder / "guard"
        objects = [self.folder / "kernels.o", "-lm", "-pthread", "-o", program]
        subprocess.run([*command, *objects], check=True)
        return subprocess.run(
            [program, self.folder / "weights"],
            input=x.numpy().tobytes(),
            capture_output=True,
            check=False,
        )

    def _weights(self, at_end: bool, lacks: int) -> tuple[WeightFile, list[int]]:
        """Write the weights so that each stands alone, behind a header of whole pages."""
        weights = self.executable.weights
        sizes = {n: -(-value.nbytes // ALIGN) * ALIGN - lacks for n, value in weights.items()}
        offsets, guards = offsets_of(sizes, at_end)
        content = np.zeros(guards[-1] + PAGE, np.uint8)
        for name, value in weights.items():
            raw = np.frombuffer(value.tobytes(), np.uint8)[: sizes[name]]
            content[offsets[name] : offsets[name] + raw.size] = raw
        header = weight_header(weights)
        header += b" " * (-(8 + len(header)) % PAGE)
        prefix = len(header).to_bytes(8, "little")
        (self.folder / "weights").write_bytes(prefix + header + content.tobytes())
        return WeightFile(header, offsets, content.size, {}, 0), guards


@pytest.fixture
def guarded(families: ModuleType, driver: Path, tmp_path: Path) -> Callable[..., Guarded]:
    def make(module: str, kind: str, target: str = "native") -> Guarded:
        x = families.example(module)
        program = traced(families.MODULES[module](), x)
        program = (
            PassManager.parse(KINDS[kind]).run(program, PassContext(calibration=[{"x": x}])).program
        )
        wanted = dataclasses.replace(Target.parse(target), cores=2)
        executable, _ = lowered(program, wanted)
        write_object(list(executable.stages.values()), wanted, tmp_path / "kernels.o")
        return Guarded(executable, program, tmp_path, driver, wanted)

    return make


@pytest.mark.parametrize(
    ("kind", "target"),
    [*((kind, "native") for kind in KINDS if kind not in LOW_BIT), ("static", "x86-64-v3")],
)
@pytest.mark.parametrize("module", MODULES)
def test_nothing_beyond_a_buffer_is_touched(
    module: str,
    kind: str,
    target: str,
    guarded: Callable[..., Guarded],
    families: ModuleType,
) -> None:
    """Wherever buffers lie, the same bits come out, and floats are what the program computes."""
    model = guarded(module, kind, target)
    x = families.example(module)
    found = [model.run(x, at_end) for at_end in (True, False)]
    assert [done.returncode for done in found] == [0, 0], found[0].stdout
    assert found[0].stdout == found[1].stdout
    if kind in CLOSE:
        content = found[0].stdout
        for name, expected in model.program.run({"x": x}).items():
            value = torch.frombuffer(
                bytearray(content), dtype=expected.dtype, count=expected.numel()
            )
            assert_close(name, expected, value.view(expected.shape), CLOSE[kind])
            content = content[value.nbytes :]
        assert content == b""


@pytest.mark.parametrize(("kind", "target"), [("lowbit", "native"), ("lowbit", "x86-64-v3"),
                                             ("planes", "native")])  # fmt: skip
@pytest.mark.parametrize("module", ["rows", "few"])
def test_low_bit_weights(
    module: str,
    kind: str,
    target: str,
    guarded: Callable[..., Guarded],
    families: ModuleType,
) -> None:
    """Packed into tiles and in place."""
    model = guarded(module, kind, target)
    assert "lowbit" in {step.family for step in model.executable.steps}
    found = [model.run(families.example(module), at_end) for at_end in (True, False)]
    assert [done.returncode for done in found] == [0, 0], found[0].stdout
    assert found[0].stdout == found[1].stdout


def test_every_family_is_there(guarded: Callable[..., Guarded]) -> None:
    executables = [guarded(module, "float32").executable for module in MODULES]
    found = {step.family for executable in executables for step in executable.steps}
    assert found >= set(FAMILIES)


@pytest.mark.parametrize("lack", [{"arena_lacks": 128}, {"weights_lack": 64}], ids=str)
def test_a_buffer_that_is_too_short_is_seen(
    lack: dict[str, int], guarded: Callable[..., Guarded], families: ModuleType
) -> None:
    done = guarded("rows", "float32").run(families.example("rows"), True, **lack)
    assert done.returncode < 0
