"""Running passes only: instruments for `effc opt`, and finding the pass that breaks a check."""

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from effc.ir import options
from effc.ir.data import open_data
from effc.ir.errors import UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.program import FORWARD
from effc.ir.target import Target
from effc.ir.trace import open_model
from effc.passes.base import PassContext, check_rules
from effc.passes.instruments import CompareOutputs, CostChange, Dump, Instrument, Limit, PrintAfter
from effc.passes.manager import PassManager
from effc.passes.registry import pass_text
from effc.passes.report import PipelineReport
from effc.preparation import STORE, check_names, one_stage
from effc.progress import Progress, no_progress
from effc.recipe import Recipe

STDERR = 2


@dataclass(frozen=True)
class Views:
    """How to look into a pipeline.

    Attributes:
        dump: Folder for the program's text after every pass that changed it.
        print_after: Name of the pass whose result is written.
        compare: Whether the output error is recorded after every pass.
        limit: After how many passes to stop.
        write: Receives what `print_after` asks for.
    """

    dump: Path | None = None
    print_after: str | None = None
    compare: bool = False
    limit: int | None = None
    write: Callable[[str], None] = print


@dataclass
class Optimisation:
    """A pipeline and the program it runs on; nothing is built.

    Attributes:
        recipe: Model, passes, target, data, exclusions.
        progress: Called with a stage, the steps done and the steps in all.
        notes: Remarks for the user.
    """

    recipe: Recipe
    progress: Progress = no_progress
    notes: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Read everything.

        Raises:
            EffcError: Of the kind that tells what is wrong.
        """
        recipe = self.recipe
        self.manager = PassManager.parse(recipe.passes)
        check_rules(self.manager.passes, recipe.rules)
        target = Target.parse(recipe.target)
        self.program = open_model(
            recipe.model, inputs=recipe.inputs, trust_pickle=recipe.trust_pickle, notes=self.notes
        )
        check_names(self.program, recipe)
        data = None
        if recipe.calib:
            signature, symbols = self.program.signature, self.program.symbols
            data = open_data(recipe.calib, signature, symbols, tokenizer=recipe.tokenizer)
        self.context = PassContext(
            target=target,
            calibration=data,
            seed=recipe.seed,
            store=options.cache_folder() / STORE if recipe.resume else None,
            exclude=tuple(recipe.exclude),
            rules=recipe.rules,
            progress=one_stage("passes", self.manager.passes, self.progress),
        )

    def run(self, views: Views) -> PipelineReport:
        """Run the passes.

        Raises:
            UsageError: If a view is not possible.
        """
        instruments = self._instruments(views)
        return PassManager(self.manager.passes, instruments).run(self.program, self.context)

    def bisect(self, command: str) -> str:
        """Find the first pass after which a shell command fails.

        The command gets the program as a `.pt2` file: `{}` in it is replaced by the path, or the
        path is appended. What it prints goes to stderr.

        Returns:
            A line that names the pass.

        Raises:
            UsageError: If the command already fails on the program itself.
        """
        passes = self.manager.passes
        if not self._is_good(0, command):
            raise UsageError("the command of --bisect fails before any pass ran")
        if self._is_good(len(passes), command):
            return "the command succeeds after every pass"
        low, high = 0, len(passes)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_good(middle, command) else (low, middle)
        where = f"pass {high} of {len(passes)}"
        return f"the command fails first after {pass_text(passes[high - 1])} ({where})"

    def _is_good(self, count: int, command: str) -> bool:
        program = PassManager(self.manager.passes, (Limit(count),)).run(self.program, self.context)
        with tempfile.TemporaryDirectory(prefix="effc-bisect-") as folder:
            path = Path(folder) / "program.pt2"
            save_program(program.program, path)
            line = command.replace("{}", str(path)) if "{}" in command else f"{command} {path}"
            return subprocess.run(line, shell=True, check=False, stdout=STDERR).returncode == 0

    def _instruments(self, views: Views) -> tuple[Instrument, ...]:
        chosen: list[Instrument] = [CostChange()]
        if views.dump:
            _check_folder(views.dump)
            chosen.append(Dump(views.dump))
        if views.print_after:
            self._check_name(views.print_after)
            chosen.append(PrintAfter(views.print_after, views.write))
        if views.limit is not None:
            chosen.append(Limit(views.limit))
        if views.compare:
            chosen.append(CompareOutputs(self._examples()))
        return tuple(chosen)

    def _check_name(self, name: str) -> None:
        names = dict.fromkeys(step.name for step in self.manager.passes)
        if name not in names:
            raise UsageError(
                f"--print-after {name!r} matches nothing; passes are {', '.join(names)}"
            )

    def _examples(self) -> dict[str, torch.Tensor]:
        examples, specs = self.program.examples.get(FORWARD), self.program.signature.inputs
        if not examples:
            raise UsageError("--compare needs example inputs; give them with --input")
        return {spec.name: value for spec, value in zip(specs, examples, strict=True)}


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
