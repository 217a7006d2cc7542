"""What this machine reaches at most, measured: multiply-adds per second, bytes per second."""

import ctypes
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effc.backends.tvm_cpu.link import compiler_command, run
from effc.codegen import peaks
from effc.codegen.isa import Isa
from effc.codegen.objects import write_object
from effc.ir.target import Target

ROUNDS = 5
TASKS, READING_NBYTES = 300, 128 << 20
FLOAT_NBYTES = 4


@dataclass(frozen=True)
class Peaks:
    """Measured limits of a machine.

    Attributes:
        macs: Multiply-adds per second by precision: `int8`, `bfloat16` where the processor has
            products of it, `float32`.
        reading: Bytes per second read from memory.
    """

    macs: dict[str, float]
    reading: float

    def seconds(self, macs: int, nbytes: int, precision: str) -> float:
        """The least time some work can take (the roofline)."""
        computing = macs / self.macs[precision] if precision in self.macs else 0.0
        return max(computing, nbytes / self.reading)


def measured_peaks(target: Target, threads: int) -> Peaks:
    """Measure the machine this runs on; takes about a second.

    Args:
        target: Whose instructions to use; must run here.
        threads: How many threads work at once.

    Raises:
        BuildError: If the kernels cannot be built.
    """
    isa = Isa.of(target)
    precisions = ["int8", *(["bfloat16"] if isa.has_bfloat16 else []), "float32"]
    with tempfile.TemporaryDirectory() as folder:
        library = _library(isa, target, precisions, Path(folder))
        macs = {
            precision: _best(_multiplying(library, isa, precision), threads)
            for precision in precisions
        }
        return Peaks(macs, _best(_reading(library, threads), threads))


Job = Callable[[int], float]


def _library(isa: Isa, target: Target, precisions: list[str], folder: Path) -> ctypes.CDLL:
    stages = [peaks.product_stage(isa, p, f"effc_peak_{p}") for p in precisions]
    stages.append(peaks.reading_stage(isa, "effc_peak_reading"))
    kernels, library = folder / "peaks.o", folder / "peaks.so"
    write_object(stages, target, kernels)
    run([*compiler_command(), "-shared", "-o", str(library), str(kernels)])
    return ctypes.CDLL(str(library))


def _multiplying(library: ctypes.CDLL, isa: Isa, precision: str) -> Job:
    """A job that multiplies and returns how many multiply-adds it did."""
    function = library[f"effc_peak_{precision}"]
    dtype = {"int8": np.int8, "bfloat16": np.uint16, "float32": np.float32}[precision]
    operands = np.zeros(2 * peaks.OPERANDS * 4 * isa.lanes, dtype)
    codes = np.zeros(4 * peaks.FEATURES, np.uint8)
    pointers = [operands, codes] if precision == "int8" else [operands]

    def job(number: int) -> float:
        sums = np.zeros(peaks.accumulators(isa) * isa.lanes, np.float32)
        addresses = [ctypes.c_void_p(a.ctypes.data) for a in (*pointers, sums)]
        function(*addresses, ctypes.c_int64(0), ctypes.c_int64(TASKS))
        return float(TASKS * peaks.product_macs(isa, precision))

    return job


def _reading(library: ctypes.CDLL, threads: int) -> Job:
    """A job that reads its share of a large array and returns how many bytes it read."""
    function = library["effc_peak_reading"]
    data = np.ones(READING_NBYTES // FLOAT_NBYTES, np.float32)
    share = data.size // peaks.ELEMENTS // threads

    def job(number: int) -> float:
        sums = np.zeros(1024, np.float32)
        addresses = [ctypes.c_void_p(a.ctypes.data) for a in (data, sums)]
        first = ctypes.c_int64(number * share)
        function(*addresses, first, ctypes.c_int64((number + 1) * share))
        return float(share * peaks.ELEMENTS * FLOAT_NBYTES)

    return job


def _best(job: Job, threads: int) -> float:
    """The highest rate of several rounds, with all threads at work."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            done = sum(pool.map(job, range(threads)))
            best = max(best, done / (time.perf_counter() - started))
    return best
