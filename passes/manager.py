"""Runs a pipeline: verification around every pass, checked claims, instruments, a row each."""

import time
from dataclasses import dataclass, replace

from effc.ir.errors import EffcError, VerifyError
from effc.ir.program import Program
from effc.ir.text import WeightHashes, fingerprint
from effc.ir.verify import verify
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.instruments import Instrument
from effc.passes.registry import parse_pipeline, pass_text, pipeline_text
from effc.passes.report import PassRow, PipelineReport


@dataclass(frozen=True)
class PassManager:
    """A pipeline of passes.

    Attributes:
        passes: In the order they run.
        instruments: See every pass before and after it runs.
    """

    passes: tuple[Pass, ...]
    instruments: tuple[Instrument, ...] = ()

    @classmethod
    def parse(cls, text: str, instruments: tuple[Instrument, ...] = ()) -> "PassManager":
        """Make a manager from the text form of a pipeline.

        Raises:
            UsageError: If the text names something that does not exist.
        """
        return cls(parse_pipeline(text), instruments)

    def __str__(self) -> str:
        return pipeline_text(self.passes)

    def run(self, program: Program, ctx: PassContext | None = None) -> PipelineReport:
        """Run the passes on a copy of a program.

        Args:
            program: Left as it is.
            ctx: Target, data, seed and store; defaults to an empty one.

        Returns:
            The changed program in `.program`, with a row per pass.

        Raises:
            VerifyError: If a pass breaks a rule or misreports whether it changed anything.
        """
        ctx = ctx or PassContext()
        ctx = ctx if ctx.original else replace(ctx, original=program)
        current, hashes = program.clone(), WeightHashes()
        verify(current)
        rows: list[PassRow] = []
        before = fingerprint(current, hashes)
        for number, step in enumerate(self.passes):
            if not all(instrument.wants(number, step) for instrument in self.instruments):
                break
            ctx.progress(step.name, number, len(self.passes))
            for instrument in self.instruments:
                instrument.before(number, step, current)
            row, before = _run_one(step, current, ctx, hashes, before)
            rows.append(row)
            for instrument in self.instruments:
                instrument.after(number, step, current, row)
        ctx.progress("passes", len(self.passes), len(self.passes))
        return PipelineReport(current, tuple(rows))


def _run_one(
    step: Pass, program: Program, ctx: PassContext, hashes: WeightHashes, before: str
) -> tuple[PassRow, str]:
    started = time.perf_counter()
    outcome = _guarded(step, program, ctx)
    seconds = time.perf_counter() - started
    if outcome.changed:  # else the fingerprint shows that there is nothing new to verify
        _verify_after(step, program)
    after = fingerprint(program, hashes)
    if outcome.changed != (after != before):
        claim = "changed" if outcome.changed else "left alone"
        raise VerifyError(
            f"{pass_text(step)} says it {claim} the program; the fingerprint disagrees"
        )
    return PassRow.of(pass_text(step), seconds, outcome), after


def _verify_after(step: Pass, program: Program) -> None:
    try:
        verify(program)
    except VerifyError as error:
        raise VerifyError(f"after {pass_text(step)}: {error}") from error


def _guarded(step: Pass, program: Program, ctx: PassContext) -> Outcome:
    try:
        return step.run(program, ctx)
    except EffcError:
        raise
    except Exception as error:
        raise EffcError(
            f"pass {pass_text(step)} failed: {type(error).__name__}: {error}"
        ) from error
