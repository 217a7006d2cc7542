"""Instruments look at every pass: dump texts, compare outputs, print, stop early."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from effc.ir.cost import program_cost, typical_sizes
from effc.ir.program import FORWARD, Program
from effc.ir.text import program_text
from effc.passes.base import Pass
from effc.passes.report import PassRow


class Instrument(Protocol):
    """Sees a program before and after every pass."""

    def wants(self, number: int, step: Pass) -> bool:
        """Whether the pipeline should go on with this pass."""

    def before(self, number: int, step: Pass, program: Program) -> None:
        """Called with the program a pass is about to get."""

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Called with what a pass made; may add to `row.measured`."""


class Observer:
    """An instrument that does nothing; base of those that only look at one moment."""

    def wants(self, number: int, step: Pass) -> bool:
        """Go on."""
        return True

    def before(self, number: int, step: Pass, program: Program) -> None:
        """Do nothing."""

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Do nothing."""


@dataclass
class Dump(Observer):
    """Writes the program's text after every pass that changed it, as `NN-pass-name.txt`."""

    folder: Path

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Write the text if the pass changed anything."""
        if row.changed:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{number:02d}-{step.name or type(step).__name__}.txt"
            path.write_text(program_text(program))


@dataclass
class PrintAfter(Observer):
    """Hands the program's text to `write` after the pass of a name."""

    name: str
    write: Callable[[str], None]

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Print if this is the pass."""
        if step.name == self.name:
            self.write(program_text(program))


@dataclass
class Limit(Observer):
    """Stops the pipeline after `count` passes."""

    count: int

    def wants(self, number: int, step: Pass) -> bool:
        """Go on while fewer passes ran."""
        return number < self.count


class CostChange(Observer):
    """Records multiply-adds and bytes of weights before and after every pass."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def before(self, number: int, step: Pass, program: Program) -> None:
        """Remember the cost."""
        self._before = program_cost(program).at(typical_sizes(program))

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Add both costs to the row."""
        after = program_cost(program).at(typical_sizes(program)) if row.changed else self._before
        row.measured["cost_before"], row.measured["cost_after"] = self._before, after


class CompareOutputs(Observer):
    """Runs the program after every pass and records the error against the input program.

    Args:
        inputs: Example inputs by name.
    """

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        self._inputs = inputs
        self._expected: dict[str, torch.Tensor] | None = None

    def before(self, number: int, step: Pass, program: Program) -> None:
        """Keep the outputs of the very first program."""
        if self._expected is None:
            self._expected = program.run(self._inputs, FORWARD)

    def after(self, number: int, step: Pass, program: Program, row: PassRow) -> None:
        """Add the signal-to-noise ratio (dB) and largest difference to the row."""
        if row.changed and self._expected is not None:
            found = program.run(self._inputs, FORWARD)
            row.measured["output_error"] = {
                name: {"sqnr_db": sqnr(value, found[name]), "max": _max_error(value, found[name])}
                for name, value in self._expected.items()
            }


def sqnr(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Signal to quantization-noise ratio in dB: 10 log10(|expected|^2 / |expected - found|^2)."""
    signal = expected.double().square().sum()
    noise = (expected.double() - found.double()).square().sum()
    if noise == 0:
        return float("inf")
    return float(10 * torch.log10(signal / noise)) if signal > 0 else float("-inf")


def _max_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected.double() - found.double()).abs().max()) if expected.numel() else 0.0
