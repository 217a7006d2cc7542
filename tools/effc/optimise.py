"""Looking into a pipeline: instruments for `effc opt`, and finding the pass that breaks a check."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from effc.ir.errors import UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.program import FORWARD, Program
from effc.passes.base import PassContext
from effc.passes.instruments import CompareOutputs, CostChange, Dump, Instrument, Limit, PrintAfter
from effc.passes.manager import PassManager
from effc.passes.registry import pass_text


def instruments_for(
    program: Program,
    dump: Path | None,
    print_after: str | None,
    compare: bool,
    limit: int | None,
    write: Callable[[str], None],
) -> tuple[Instrument, ...]:
    """The instruments the options of `effc opt` ask for.

    Raises:
        UsageError: If outputs are to be compared and the program has no example inputs.
    """
    chosen: list[Instrument] = [CostChange()]
    if dump:
        chosen.append(Dump(dump))
    if print_after:
        chosen.append(PrintAfter(print_after, write))
    if limit is not None:
        chosen.append(Limit(limit))
    if compare:
        examples = program.examples.get(FORWARD)
        if not examples:
            raise UsageError("--compare needs example inputs; give them with --input")
        specs = program.signature.inputs
        named = {spec.name: value for spec, value in zip(specs, examples, strict=True)}
        chosen.append(CompareOutputs(named))
    return tuple(chosen)


def bisected(manager: PassManager, program: Program, context: PassContext, command: str) -> str:
    """Find the first pass after which a shell command fails.

    The command gets the program as a `.pt2` file: `{}` in it is replaced by the path, or the path
    is appended.

    Returns:
        A line that names the pass.

    Raises:
        UsageError: If the command already fails on the program itself.
    """
    if not _passes_check(manager, 0, program, context, command):
        raise UsageError("the command fails before any pass ran")
    low, high = 0, len(manager.passes)
    if _passes_check(manager, high, program, context, command):
        return "the command succeeds after every pass"
    while high - low > 1:
        middle = (low + high) // 2
        if _passes_check(manager, middle, program, context, command):
            low = middle
        else:
            high = middle
    return f"first pass after which the command fails: {pass_text(manager.passes[high - 1])}"


def _passes_check(
    manager: PassManager, count: int, program: Program, context: PassContext, command: str
) -> bool:
    result = PassManager(manager.passes, (Limit(count),)).run(program, context).program
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pt2"
        save_program(result, path)
        line = command.replace("{}", str(path)) if "{}" in command else f"{command} {path}"
        return subprocess.run(line, shell=True, check=False).returncode == 0
