"""Compiling the driver and linking it with the kernels into one shared library."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from effc.ir import options
from effc.ir.errors import BuildError

FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-Wall", "-Wno-unknown-pragmas"]


def compiler_command() -> list[str]:
    """The C compiler to use: what the user asks for, the system's, or the one of `ziglang`.

    Raises:
        BuildError: If there is none.
    """
    chosen = options.compiler()
    if chosen:
        return chosen.split()
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError("no C compiler found; install one, or `pip install effc[zig]`")


def link(source: Path, objects: list[Path], include: Path, output: Path) -> None:
    """Compile `source` and link it with object files into a shared library.

    Args:
        source: The generated driver.
        objects: Kernels.
        include: Folder of `effc.h` and `runtime.c`.
        output: The library to write.

    Raises:
        BuildError: With the compiler's first error.
    """
    exports = source.with_suffix(".map")
    exports.write_text("{ global: effc_*; local: *; };\n")
    command = [
        *compiler_command(),
        *FLAGS,
        f"-I{include}",
        "-shared",
        f"-Wl,--version-script={exports}",
        "-o",
        str(output),
        str(source),
        *map(str, objects),
        "-lm",
        "-pthread",
    ]
    run(command)


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        BuildError: If it fails, with the first line that says why.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or done.stderr.splitlines() or ["no output"])[0]
        raise BuildError(f"{command[0]} failed: {reason}")
