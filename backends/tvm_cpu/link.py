"""Compiling the driver and linking it with the kernels into one shared library."""

import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from effc.ir import options
from effc.ir.errors import BuildError

FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]
HEADER = "effc.h"
WORDS = ("error", "cannot", "no space", "undefined", "fatal")


def compiler_command() -> list[str]:
    """The C compiler to use: what the user asks for, the system's, or the one of `ziglang`.

    Raises:
        BuildError: If there is none.
    """
    chosen = options.compiler()
    if chosen is not None:
        return _words(chosen)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError(
        "no C compiler found; install one, `pip install effc[zig]`, or name one in EFFC_CC"
    )


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BuildError(f"cannot read EFFC_CC={command!r}: {error}") from error
    if not words:
        raise BuildError(f"cannot read EFFC_CC={command!r}: it names no compiler")
    return words


def link(source: Path, objects: list[Path], include: Path, output: Path) -> None:
    """Compile `source` and link it with object files into a shared library.

    The same sources give the same bytes, wherever they lie.

    Args:
        source: The generated driver.
        objects: Kernels.
        include: Folder of `effc.h` and `runtime.c`.
        output: The library to write.

    Raises:
        BuildError: With the compiler's first error.
    """
    exports = source.with_suffix(".map")
    exports.write_text(f"{{ global: {offered(include / HEADER)} local: *; }};\n")
    command = [
        *compiler_command(),
        *FLAGS,
        f"-ffile-prefix-map={source.parent}=.",
        f"-I{include}",
        "-shared",
        "-s",  # debug information can be larger than the kernels
        "-Xlinker",  # unlike -Wl, it takes paths with commas
        f"--version-script={exports}",
        "-Xlinker",
        "-Bsymbolic",  # a process may hold another model under the same names
        "-o",
        str(output),
        str(source),
        *map(str, objects),
        "-lm",
        "-pthread",
    ]
    run(command)
    if not output.is_file():
        raise BuildError(f"{command[0]} wrote no library")


def offered(header: Path) -> str:
    """The functions of a header, as the linker wants them; kernels are nobody else's."""
    names = sorted(set(re.findall(r"\b(effc_\w+)\(", header.read_text())))
    return " ".join(f"{name};" for name in names)


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        BuildError: If it fails, with the first line that says why.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode < 0:
        raise BuildError(f"{command[0]} was ended by {_signal_name(-done.returncode)}")
    if done.returncode:
        raise BuildError(f"{command[0]} failed: {_reason(done.stderr)}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _reason(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line.lower() for word in WORDS)]
    return (telling or lines or ["it said nothing"])[0].strip()
