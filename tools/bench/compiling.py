"""Compiling in a process of its own, with its wall time and peak memory."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Compiled:
    """A finished compile.

    Attributes:
        folder: The artifact.
        seconds: Wall time of the whole command.
        peak_nbytes: The most memory the process ever held.
    """

    folder: Path
    seconds: float
    peak_nbytes: int


def compile_artifact(
    model: str, folder: Path, *options: str, database: Path | None = None
) -> Compiled:
    """Run `effc compile` and measure it.

    Args:
        model: MODEL.
        folder: Where the artifact goes.
        options: Of the command.
        database: The tuning database, if not the user's own.

    Raises:
        RuntimeError: If it fails, with what it printed.
    """
    command = [sys.executable, "-m", "effc", "compile", model, "-o", str(folder), *options]
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"EFFC_TUNING": str(database)} if database else {})
    started = time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment
        )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log.read_text()}")
    report = json.loads((folder / "report.json").read_text())
    return Compiled(folder, seconds, report["compile"]["peak_memory_nbytes"])
