"""Resident memory that loading and running a model takes, measured in a process of its own."""

import gc
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from effc.backends.base import backend_of
from effc.backends.peers import PEERS
from effc.backends.reading import read_manifest
from effc.backends.runner import Model

OWN = "effc"
RUNS = 3
LONGEST_SECONDS = 600
Arrays = dict[str, np.ndarray]


def footprint(what: str, folder: Path, inputs: Arrays, threads: int) -> int | None:
    """Bytes by which resident memory grows.

    Args:
        what: `effc` or a peer.
        folder: An artifact, or what the peer exported.
        inputs: What to run on.
        threads: How many threads to use.

    Returns:
        None if it cannot be measured.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "inputs.npz"
        np.savez(path, **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "effc.footprint", what, str(folder), str(path)]
        try:
            done = subprocess.run(
                [*command, str(threads)],
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    last = (done.stdout.splitlines() or [""])[-1]
    return int(last) if done.returncode == 0 and last.isdigit() else None


def resident_nbytes() -> int:
    """Resident memory of this process, in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def opened(what: str, folder: Path, inputs: Arrays, threads: int) -> Callable[[], object]:
    """Load a model; calling the result runs it."""
    if what == OWN:
        model = Model(folder, threads)
        return lambda: model.run(inputs)
    return PEERS[what].open(folder, inputs, threads)


def main() -> None:
    """Measure and print."""
    what, folder, path, threads = sys.argv[1:]
    with np.load(path, allow_pickle=False) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    if what != OWN:
        importlib.import_module(PEERS[what].package)
    else:
        backend_of(read_manifest(Path(folder), check=False).backend)
    before = resident_nbytes()
    call = opened(what, Path(folder), inputs, int(threads))
    for _ in range(RUNS):
        call()
    print(max(resident_nbytes() - before, 0))


if __name__ == "__main__":
    main()
