"""Candidates of one kernel as an executable that runs them in turn, each as it runs in a model.

Before its turn a candidate finds what the step before it would leave: weights have gone from the
nearer caches, what it reads was just written, by all threads. Every candidate has packed weights
of its own, and its results are kept so that they can be checked.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from effc.codegen import peaks, select
from effc.codegen.executable import SLACK, Choice, Executable, Pointer, Step
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, Param, Stage
from effc.codegen.memory import Life, plan
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule
from effc.codegen.tir import index, load
from effc.ir.program import Signature, TensorSpec
from effc.ir.symbols import Size, evaluate

LINE = 64
SCRUBBED_CACHES = 2
FLOAT_NBYTES = 4


@dataclass(frozen=True)
class Memory:
    """The memory of one operand or result.

    Attributes:
        content: Its bytes before the kernel runs, uint8 `[nbytes]`.
        offset: Bytes from its start to the first element.
        shape: Of the tensor in it.
        strides: In elements.
        dtype: Element type.
    """

    content: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, content: np.ndarray | None = None) -> torch.Tensor:
        """The tensor in this memory, or in other memory of the same layout."""
        flat = torch.from_numpy(self.content if content is None else content)
        whole = flat[: flat.numel() // self.dtype.itemsize * self.dtype.itemsize].view(self.dtype)
        return whole.as_strided(self.shape, self.strides, self.offset // self.dtype.itemsize)


@dataclass(frozen=True)
class Case:
    """A kernel to try schedules on, with true operands.

    Attributes:
        key: Fingerprint of the region.
        region: What is computed.
        symbols: Symbolic sizes the functions are called with.
        sizes: Their values.
        operands: What it reads; weights are in row-major memory.
        results: Where it writes, with zeros in it.
        expected: What the region computes in PyTorch.
    """

    key: str
    region: Region
    symbols: tuple[str, ...]
    sizes: dict[str, int]
    operands: tuple[Memory, ...]
    results: tuple[Memory, ...]
    expected: tuple[torch.Tensor, ...]

    def values(self, size: Size) -> int:
        """The number a size has here."""
        return evaluate(size, self.sizes)


def trial_executable(case: Case, schedules: Sequence[Schedule], isa: Isa) -> Executable:
    """An executable that runs a kernel once per schedule.

    It has no inputs; its outputs are the memory of every result of every candidate, in order. The
    time of candidate `i` is that of the steps named `i`.

    Raises:
        BuildError: If a schedule cannot be built.
    """
    return _Trial(case, schedules, isa).executable


class _Trial:
    def __init__(self, case: Case, schedules: Sequence[Schedule], isa: Isa) -> None:
        self.case, self.isa = case, isa
        self.copy = _copy_stage(case.symbols)
        read = peaks.ELEMENTS * FLOAT_NBYTES
        tasks = isa.cores * max(SCRUBBED_CACHES * isa.l2 // read, 1)
        self.scrub = peaks.reading_stage(isa, "effc_scrub", case.symbols, tasks)
        outputs = [
            TensorSpec(f"{number}_{place}", torch.uint8, (_rounded(result.content.nbytes),))
            for number in range(len(schedules))
            for place, result in enumerate(case.results)
        ]
        self.executable = Executable(Signature((), tuple(outputs)), case.symbols)
        self.executable.stages = {s.symbol: s for s in (self.copy, self.scrub)}
        self.lives: list[Life] = []
        self.sizes: dict[Hashable, int] = {}
        self.uses: dict[Hashable, list[int]] = {}
        self.executable.weights["scrub"] = np.zeros(tasks * peaks.ELEMENTS, np.float32)
        for number, schedule in enumerate(schedules):
            self._candidate(number, schedule)
        lives = [Life(key, self.sizes[key], min(at), max(at)) for key, at in self.uses.items()]
        self.executable.memory = plan(lives)

    def _candidate(self, number: int, schedule: Schedule) -> None:
        case = self.case
        kernel = select.build(case.region, self.isa, f"effc_c{number}", case.symbols, schedule)
        choice = Choice(case.key, kernel, schedule)
        for stage in kernel.stages:
            self.executable.stages[stage.symbol] = stage
        self._step(self.scrub, [self._weight("scrub"), self._arena("sums", 1 << 12)], choice)
        for position, memory in enumerate(case.operands):
            if not case.region.weights[position]:
                content = self._padded(f"operand_{position}", memory.content)
                fresh = self._arena(("operand", position), content.nbytes)
                self._copy(self._weight(f"operand_{position}"), fresh, content.nbytes, choice)
        for stage in kernel.stages:
            pointers = [self._pointer(param, number, kernel) for param in stage.params]
            self._step(stage, pointers, choice, str(number))
        if kernel.scratch != 0:
            self.executable.scratch.append(case.values(kernel.scratch))
        for place, memory in enumerate(case.results):
            nbytes = _rounded(memory.content.nbytes)
            kept = Pointer("output", number * len(case.results) + place)
            self._copy(self._arena(("result", place), nbytes), kept, nbytes, choice)

    def _pointer(self, param: Param, number: int, kernel: Kernel) -> Pointer:
        case = self.case
        if param.kind == "scratch":
            return Pointer("scratch", 0)
        if param.kind == "packed":
            name = f"{number}_{param.which}"
            if name not in self.executable.weights:
                tensors = [
                    memory.tensor() if is_weight else None
                    for memory, is_weight in zip(case.operands, case.region.weights, strict=True)
                ]
                self.executable.weights[name] = kernel.packed[str(param.which)](tensors)
            return self._weight(name)
        if param.kind == "temporary":
            nbytes = case.values(kernel.temporaries[str(param.which)]) + SLACK
            return self._arena(("temporary", number, param.which), nbytes)
        position = int(param.which)
        if param.kind == "output":
            memory = case.results[position]
            base = self._arena(("result", position), _rounded(memory.content.nbytes))
            return Pointer("arena", base.key, memory.offset)
        memory = case.operands[position]
        if case.region.weights[position]:
            name = f"operand_{position}"
            self._padded(name, memory.content)
            return Pointer("weight", name, memory.offset)
        return Pointer("arena", ("operand", position), memory.offset)

    def _padded(self, name: str, content: np.ndarray) -> np.ndarray:
        """Register the memory of an operand, whole lines of it."""
        known = self.executable.weights
        if name not in known:
            known[name] = np.zeros(_rounded(content.nbytes), np.uint8)
            known[name][: content.nbytes] = content
        return known[name]

    def _weight(self, name: str) -> Pointer:
        return Pointer("weight", name)

    def _arena(self, key: Hashable, nbytes: int) -> Pointer:
        self.sizes[key] = nbytes
        return Pointer("arena", key)

    def _copy(self, source: Pointer, target: Pointer, nbytes: int, choice: Choice) -> None:
        stage = Stage(self.copy.function, self.copy.params, nbytes // LINE)
        self._step(stage, [source, target], choice)

    def _step(self, stage: Stage, pointers: list[Pointer], choice: Choice, name: str = "") -> None:
        number = len(self.executable.steps)
        for pointer in pointers:
            if pointer.base == "arena":
                self.uses.setdefault(pointer.key, []).append(number)
        self.executable.steps.append(Step(stage, tuple(pointers), name, choice))


def _copy_stage(symbols: tuple[str, ...]) -> Stage:
    """A function whose tasks copy a line each."""
    function = FunctionBuilder("effc_copy", symbols)
    source = function.param("input", 0, "uint8")
    target = function.param("output", 0, "uint8")
    b = function.builder
    begin, end = function.task_range
    with b.loop(begin, end, "line") as line:
        at = b.let(line * index(LINE))
        b.store(target, load(source, at, LINE), at)
    return function.close(1)


def _rounded(nbytes: int) -> int:
    """Whole lines, with as much behind them as kernels may read."""
    return -(-(nbytes + SLACK) // LINE) * LINE
