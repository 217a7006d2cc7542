"""A model built for more than the processor has is refused with one line, never with a signal."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effc.backends.tvm_cpu.build import build
from effc.ir.program import Program
from effc.ir.target import BF16, V3, V4, VNNI, Target

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "c" / "main.c"
WEIGHTS = "weights.safetensors"
NATIVE = Target.parse("native")
Run = Callable[..., Any]

# Leaf, subleaf, register and bit of each, from the processors' manuals.
EAX, EBX, ECX = 0, 1, 2
BITS = {
    "avx": (1, 0, ECX, 28),
    "avx2": (7, 0, EBX, 5),
    "bmi": (7, 0, EBX, 3),
    "bmi2": (7, 0, EBX, 8),
    "f16c": (1, 0, ECX, 29),
    "fma": (1, 0, ECX, 12),
    "lzcnt": (0x80000001, 0, ECX, 5),
    "movbe": (1, 0, ECX, 22),
    "sse4.2": (1, 0, ECX, 20),
    "popcnt": (1, 0, ECX, 23),
    "avx512f": (7, 0, EBX, 16),
    "avx512bw": (7, 0, EBX, 30),
    "avx512cd": (7, 0, EBX, 28),
    "avx512dq": (7, 0, EBX, 17),
    "avx512vl": (7, 0, EBX, 31),
    "avx512vnni": (7, 0, ECX, 11),
    "avx512bf16": (7, 1, EAX, 5),
}
SAVED_BY_THE_SYSTEM = (1, 0, ECX, 27)


@pytest.fixture
def lacking(sources: dict[str, Path], driver: Path, run: Run, tmp_path: Path) -> Callable[..., Any]:
    """Open a model for this machine on a processor that lacks one bit."""
    folder, program = sources["images"], tmp_path / "program"
    include = [f"-I{HERE / 'processor'}", f"-I{driver}"]
    objects = [HERE / "many_threads.c", folder / "model.c", folder / "kernels.o"]
    command = ["gcc", "-Wall", *include, *objects, "-lm", "-pthread", "-o", program]
    done = run(command)
    assert (done.returncode, done.stderr) == (0, "")

    def opened(bits: tuple[int, int, int, int]) -> str:
        lacks = " ".join(f"{number:x}" for number in bits)
        done = run(["env", f"EFFC_LACKS={lacks}", program, folder / WEIGHTS, "1"])
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout).partition("\n")[0]

    return opened


def test_what_a_processor_lacks_is_named(lacking: Callable[..., str]) -> None:
    assert set(BITS) == {*V4, VNNI, BF16} > set(V3)
    assert lacking((0, 0, 0, 0)) == "opened"
    for feature in NATIVE.features:
        found = lacking(BITS[feature])
        assert found == f"the model was built for a processor with {feature}, which this one lacks"
    found = lacking(SAVED_BY_THE_SYSTEM)
    assert found == "the model was built for a processor with avx, which this one lacks"


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-x86_64 (qemu-user)")
@pytest.mark.parametrize(
    ("target", "missing"), [("x86-64-v3", ""), ("x86-64-v4", "avx512f"), ("znver4", "avx512f")]
)
def test_an_older_processor(
    target: str, missing: str, programs: dict[str, Program], run: Run, tmp_path: Path
) -> None:
    """Emulated: AVX2 but no AVX-512. What fits runs, what does not is refused."""
    folder = tmp_path / "out"
    folder.mkdir()
    build(programs["codes"], Target.parse(target), folder)
    program, inputs = tmp_path / "main", "0.5 " * 432
    link = [EXAMPLE, folder / "model.so", "-Xlinker", "-rpath", "-Xlinker", folder, "-o", program]
    subprocess.run(["cc", f"-I{folder}", *link], check=True)
    command = [program, folder / WEIGHTS, "1"]
    done = run(["qemu-x86_64", "-cpu", "max", *command], inputs)
    if missing:
        text = f"the model was built for a processor with {missing}, which this one lacks\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", text)
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == run(command, inputs).stdout
