"""Measures candidates of a kernel on this machine: built in one process, run in another."""

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import tvm

from effc.backends.agreement import agreement
from effc.backends.measure import Latency
from effc.backends.tuning.search import Outcome
from effc.backends.tvm_cpu.link import link
from effc.backends.tvm_cpu.weights import weight_header, write_weights
from effc.codegen import driver
from effc.codegen.driver.emit import driver_source
from effc.codegen.driver.weights import WeightFile
from effc.codegen.executable import Executable
from effc.codegen.isa import Isa
from effc.codegen.objects import module_of
from effc.codegen.schedule import Schedule
from effc.codegen.trial import Case, trial_executable
from effc.ir.errors import BuildError
from effc.ir.symbols import Symbol
from effc.ir.target import Target

DRIVER = Path(driver.__file__).parent
BUILD_SECONDS, RUN_SECONDS = 180.0, 60.0
FLOAT_DB, LEAST_DB, MARGIN_DB = 60.0, 20.0, 6.0
MODULE = "effc.backends.tvm_cpu"


class TrialError(Exception):
    """Candidates that cannot be built or run; the message says why."""


@dataclass
class KernelBench:
    """Builds and measures candidates; a context manager that ends its processes.

    Attributes:
        target: What to build for; must run here.
        symbols: The symbolic dimensions of the program, in order.
        folder: Where to work; must exist.
    """

    target: Target
    symbols: list[Symbol]
    folder: Path

    def __enter__(self) -> Self:
        """Start the process that builds."""
        self._compiler = _Compiler()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._compiler.close()

    def measure(self, case: Case, schedules: Sequence[Schedule], rounds: int) -> list[Outcome]:
        """Measure schedules in interleaved rounds and check what they compute.

        Args:
            case: The kernel.
            schedules: The first one is the default; if it does not work, nothing does.
            rounds: How often each takes its turn.

        Returns:
            An outcome per schedule. Where one fails all that were built with it are measured again
            in smaller groups, so that only the culprit has a problem.
        """
        try:
            return self._together(case, schedules, rounds)
        except (TrialError, BuildError) as error:
            default, others = schedules[0], list(schedules[1:])
            if len(others) <= 1:
                problem = Outcome(problem=str(error))
                first = self.measure(case, [default], rounds) if others else [problem]
                return [*first, *[problem] * len(others)]
            middle = len(others) // 2
            left = self.measure(case, [default, *others[:middle]], rounds)
            right = self.measure(case, [default, *others[middle:]], rounds)
            return [*left, *right[1:]]

    def _together(self, case: Case, schedules: Sequence[Schedule], rounds: int) -> list[Outcome]:
        work = self.folder / "trial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            executable = trial_executable(case, schedules, Isa.of(self.target))
            self._build(executable, case, work)
            _run(work, rounds)
            return _outcomes(executable, case, len(schedules), work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _build(self, executable: Executable, case: Case, work: Path) -> None:
        module, kernels = work / "module.json", work / "kernels.o"
        module.write_text(tvm.ir.save_json(module_of(list(executable.stages.values()))))
        self._compiler.compile(module, kernels, self.target)
        link_trial(executable, self.symbols, self.target, kernels)
        content = {
            "outputs": [spec.shape[0] for spec in executable.signature.outputs],
            "sizes": [case.sizes[symbol.name] for symbol in self.symbols],
        }
        (work / "trial.json").write_text(json.dumps(content))


def link_trial(
    executable: Executable, symbols: list[Symbol], target: Target, kernels: Path
) -> None:
    """Write `model.so` and `weights.safetensors` beside an object file of kernels."""
    work = kernels.parent
    weights = WeightFile.of(executable.weights, weight_header(executable.weights))
    (work / "model.c").write_text(driver_source(executable, symbols, target, weights))
    link(work / "model.c", [kernels], DRIVER, work / "model.so")
    write_weights(executable.weights, work / "weights.safetensors")


class _Compiler:
    """The process that turns kernels into object files; started again if it ends."""

    def __init__(self) -> None:
        self._is_ready = False
        self._start()

    def compile(self, module: Path, output: Path, target: Target) -> None:
        """Compile a module.

        Raises:
            TrialError: If LLVM refuses it, ends the process, or takes too long.
        """
        job = {"module": str(module), "object": str(output), "target": asdict(target)}
        if self._process.poll() is not None:
            self._start()
        if not self._is_ready:
            self._answer()
            self._is_ready = True
        try:
            self._input.write(f"{json.dumps(job)}\n")
            self._input.flush()
        except OSError as error:
            raise TrialError("the compiler crashed") from error
        problem = self._answer().get("problem")
        if problem is not None:
            raise TrialError(problem)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{MODULE}.compile_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._is_ready = False

    def _answer(self) -> dict[str, str]:
        ready, _, _ = select.select([self._output], [], [], BUILD_SECONDS)
        line = self._output.readline() if ready else ""
        if line:
            return json.loads(line)
        self.close()
        raise TrialError("the compiler crashed" if ready else "compiling took too long")

    @property
    def _input(self) -> IO[str]:
        if self._process.stdin is None:
            raise AssertionError("a pipe was asked for")
        return self._process.stdin

    @property
    def _output(self) -> IO[str]:
        if self._process.stdout is None:
            raise AssertionError("a pipe was asked for")
        return self._process.stdout


def _run(work: Path, rounds: int) -> None:
    command = [sys.executable, "-m", f"{MODULE}.trial_worker", str(work), str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=RUN_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"ran longer than {RUN_SECONDS:.0f} s") from error
    if done.returncode < 0:
        raise TrialError(f"crashed with signal {-done.returncode}")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise TrialError(f"failed: {said[-1]}")


def _outcomes(executable: Executable, case: Case, count: int, work: Path) -> list[Outcome]:
    seconds = np.load(work / "seconds.npy")
    names = [step.name for step in executable.steps]
    found: list[Outcome] = []
    floors = [LEAST_DB] * len(case.expected)
    for number in range(count):
        ratios = [_agreement(work, case, number, place) for place in range(len(case.expected))]
        if any(ratio < floor for ratio, floor in zip(ratios, floors, strict=True)):
            found.append(Outcome(problem=f"computes something else ({min(ratios):.1f} dB)"))
            continue
        if number == 0:
            floors = [max(min(FLOAT_DB, ratio - MARGIN_DB), LEAST_DB) for ratio in ratios]
        own = [step for step, name in enumerate(names) if name == str(number)]
        found.append(Outcome(latency=Latency.of(seconds[:, own].sum(axis=1).tolist())))
    return found


def _agreement(work: Path, case: Case, number: int, place: int) -> float:
    """How close a result of a candidate is to what the region computes in PyTorch."""
    content = np.load(work / f"output_{number * len(case.results) + place}.npy")
    expected, found = case.expected[place], case.results[place].tensor(content)
    return agreement(expected.double().numpy(), found.double().numpy())
