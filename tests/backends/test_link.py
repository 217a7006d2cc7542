"""Choosing and running the C compiler: whatever is installed, and one line if nothing works."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from effc.backends.runner import Model
from effc.backends.tvm_cpu.build import build
from effc.backends.tvm_cpu.link import compiler_command, offered, run
from effc.candidate import build_candidate
from effc.ir.errors import BuildError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.testing import ROUNDING, assert_close

ZIG = f"{sys.executable} -m ziglang cc"
Script = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """An executable shell script in a folder of its own."""

    def write(text: str, name: str = "cc") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


def refusal(programs: dict[str, Program], folder: Path) -> str:
    (folder / "out").mkdir()
    with pytest.raises(BuildError) as caught:
        build(programs["pair"], Target.parse("native"), folder / "out")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("chosen", [ZIG, "gcc", "env LC_ALL=C gcc -g0"])
def test_compilers_that_work(
    chosen: str,
    programs: dict[str, Program],
    pixels: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two models at once, so that names which are not kept apart show."""
    monkeypatch.setenv("EFFC_CC", chosen)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "zig"))
    models: dict[str, Model] = {}
    for name in ("float32", "int8"):
        folder = tmp_path / f"{name}, with = signs"
        folder.mkdir()
        models[name] = build_candidate(
            name, programs[name], Target.parse("native"), folder, []
        ).model
        assert not (folder / "build").exists()
    for name, model in models.items():
        expected = programs[name].run({"x": pixels})["output"]
        assert_close(name, expected, model(pixels), ROUNDING[torch.float32])
        model.close()


def test_the_same_bytes_wherever_it_is_built(programs: dict[str, Program], tmp_path: Path) -> None:
    contents = []
    for name in ("one", "another/place"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        build(programs["float32"], Target.parse("native"), folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"model.so", "weights.safetensors", "effc.h"}


def test_the_choice(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EFFC_CC", raising=False)
    folder = script("exit 1", "clang").parent
    monkeypatch.setenv("PATH", str(folder))
    assert compiler_command() == ["clang"]
    script("exit 1", "gcc")
    assert compiler_command() == ["gcc"]
    script("exit 1", "cc")
    assert compiler_command() == ["cc"]
    monkeypatch.setenv("EFFC_CC", "'my cc' -m64")
    assert compiler_command() == ["my cc", "-m64"]
    monkeypatch.delenv("EFFC_CC")
    monkeypatch.setenv("PATH", str(folder / "none"))
    assert compiler_command() == [sys.executable, "-m", "ziglang", "cc"]


def test_no_compiler_at_all(
    programs: dict[str, Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EFFC_CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refusal(programs, tmp_path) == (
        "no C compiler found; install one, `pip install effc[zig]`, or name one in EFFC_CC"
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("/none/cc", "cannot run /none/cc: No such file or directory"),
        ("/tmp", "cannot run /tmp: Permission denied"),
        ("'cc", 'cannot read EFFC_CC="\'cc": No closing quotation'),
        ("  ", "cannot read EFFC_CC='  ': it names no compiler"),
    ],
)
def test_compilers_that_are_none(
    chosen: str,
    message: str,
    programs: dict[str, Program],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EFFC_CC", chosen)
    assert refusal(programs, tmp_path) == message


FAILURES = {
    "exit 3": "failed: it said nothing",
    "echo; echo '  a.c:1: error: what?' >&2; exit 1": "failed: a.c:1: error: what?",
    "echo hint >&2; echo 'ld: cannot find it' >&2; exit 1": "failed: ld: cannot find it",
    "echo one >&2; echo two >&2; exit 1": "failed: one",
    "printf '\\377\\n' >&2; exit 1": "failed: \ufffd",
    "kill -9 $$": "was ended by SIGKILL",
    "kill -SEGV $$": "was ended by SIGSEGV",
    "kill -40 $$": "was ended by signal 40",
    "exit 0": "wrote no library",
}


@pytest.mark.parametrize("text", FAILURES)
def test_compilers_that_fail(
    text: str,
    script: Script,
    programs: dict[str, Program],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = script(text)
    monkeypatch.setenv("EFFC_CC", str(path))
    assert refusal(programs, tmp_path) == f"{path} {FAILURES[text]}"


def test_files_that_are_no_program(script: Script) -> None:
    path = script("")
    path.write_bytes(b"\x7fELF nothing")
    with pytest.raises(BuildError, match=f"^cannot run {path}: Exec format error$"):
        run([str(path)])
    os.chmod(path, 0o644)
    with pytest.raises(BuildError, match=f"^cannot run {path}: Permission denied$"):
        run([str(path)])


def test_only_the_interface_is_offered(tmp_path: Path) -> None:
    header = tmp_path / "effc.h"
    header.write_text(
        "int effc_run(int);\ntypedef struct effc_model effc_model;\nint effc_a(void);"
    )
    assert offered(header) == "effc_a; effc_run;"
