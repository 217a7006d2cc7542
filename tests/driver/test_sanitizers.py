"""The driver under the compiler's sanitizers: no data race, no stray access, no undefined step."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STRESS = Path(__file__).with_name("stress.c")
KINDS = ["thread", "address,undefined"]
NAMES = ["images", "codes", "words", "maps-int8", "rows-bfloat16"]
Run = Callable[..., Any]
Stress = Callable[..., Any]


@pytest.fixture
def stress(sources: dict[str, Path], driver: Path, run: Run, tmp_path: Path) -> Stress:
    """Compile `stress.c` with a model and a sanitizer, and run it."""

    def call(name: str, kind: str, *flags: str) -> Any:
        folder, program = sources[name], tmp_path / "stress"
        command = ["gcc", "-std=gnu11", "-g", "-O1", f"-fsanitize={kind}", "-fno-sanitize-recover"]
        inputs = [STRESS, folder / "model.c", folder / "kernels.o"]
        done = run([*command, *flags, f"-I{driver}", *inputs, "-lm", "-pthread", "-o", program])
        if "cannot find -l" in done.stderr or "libtsan" in done.stderr or "libasan" in done.stderr:
            pytest.skip(f"this compiler has no sanitizer {kind}")
        assert (done.returncode, done.stderr) == (0, "")
        # Older sanitizers of threads fail where the kernel randomises many address bits.
        fixed = ["setarch", "-R"] if kind == "thread" and shutil.which("setarch") else []
        return run([*fixed, program, folder / "weights.safetensors"])

    return call


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and its sanitizers")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_report(name: str, kind: str, stress: Stress) -> None:
    done = stress(name, kind)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 failures\n", "")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc and its sanitizers")
@pytest.mark.parametrize(
    ("kind", "mistake", "report"),
    [
        ("thread", "RACE", "ThreadSanitizer: data race"),
        ("address,undefined", "OVERFLOW", "AddressSanitizer: heap-buffer-overflow"),
    ],
)
def test_a_mistake_is_reported(kind: str, mistake: str, report: str, stress: Stress) -> None:
    done = stress("images", kind, f"-D{mistake}")
    assert done.returncode != 0
    assert report in done.stderr
