"""What a pass is: a frozen dataclass whose fields are its options."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from effc.ir.errors import Refusal, UsageError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.passes.plan.model import Limit
from effc.passes.plan.timing import Timing

Batch = dict[str, Any]


@dataclass
class PassContext:
    """Everything a pass may use besides the program; there is no global state.

    Attributes:
        target: What the program will be built for, where that is known.
        calibration: Batches of inputs by name, or `(inputs, labels)`; can be iterated again.
        substitute: Makes data where there is no calibration data; None to make it from the program
            a pass gets.
        evaluate: Task quality of a program, larger is better.
        seed: Seed of all randomness, see `rng`.
        store: Folder for resumable work, keyed by content; None keeps nothing.
        exclude: Patterns of layer names that compression must leave alone.
        rules: Per-layer options: pattern and what it sets, such as `("encoder.*", {"bits": "8"})`.
        kept: Names of layers that compression must leave alone to keep the quality budget.
        limits: What plans over the program must keep, in estimates.
        sizes: Values of symbolic dimensions for such estimates; none for the usual ones.
        timing: Measured times of layers in number formats, where there are any.
        progress: Called with a stage, the steps done and the steps in all.
        original: The program before the first pass; the manager fills it in.
    """

    target: Target | None = None
    calibration: Iterable[Any] | None = None
    substitute: Callable[[], Iterable[Any]] | None = None
    evaluate: Callable[[Program], float] | None = None
    seed: int = 0
    store: Path | None = None
    exclude: tuple[str, ...] = ()
    rules: tuple[tuple[str, dict[str, str]], ...] = ()
    kept: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    timing: Timing | None = None
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None
    original: Program | None = None

    def rng(self, name: str) -> np.random.Generator:
        """A generator of random numbers that depends on the seed and a name only."""
        digest = hashlib.blake2b(f"{self.seed}/{name}".encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))

    def is_excluded(self, layer: str) -> bool:
        """Whether a layer is kept, or its name matches one of the user's exclusion patterns."""
        return layer in self.kept or any(fnmatchcase(layer, one) for one in self.exclude)

    def options_for(self, layer: str) -> dict[str, str]:
        """What the per-layer rules set for a layer; later rules win."""
        merged: dict[str, str] = {}
        for pattern, options in self.rules:
            if fnmatchcase(layer, pattern):
                merged |= options
        return merged


def check_patterns(context: PassContext, layers: Iterable[str]) -> None:
    """Make sure that every exclusion and per-layer pattern matches at least one layer.

    Raises:
        UsageError: Naming the first pattern that matches nothing and some of the layers there are.
    """
    known = sorted(set(layers))
    for pattern in (*context.exclude, *(pattern for pattern, _ in context.rules)):
        if not any(fnmatchcase(layer, pattern) for layer in known):
            some = ", ".join(known[:4]) + (", ..." if len(known) > 4 else "")
            raise UsageError(f"pattern {pattern!r} matches nothing; layers are {some}")


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    Attributes:
        changed: Whether the program differs from what the pass was given; checked by the manager.
        notes: What the report shows, JSON-able, by name.
        refusals: What was left alone, and why.
    """

    changed: bool
    notes: dict[str, Any] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Pass:
    """Base of every pass. A subclass is a frozen dataclass with a class variable `name`.

    Its class variable `layer_options` names what it reads with `PassContext.options_for`.
    """

    name: ClassVar[str] = ""
    layer_options: ClassVar[tuple[str, ...]] = ()

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Edit the program in place and say what was done.

        Args:
            program: A copy the pass may edit; its tensors may be shared and are never written to.
            ctx: Target, data, seed and store.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run")


def check_rules(passes: Iterable[Pass], rules: Iterable[tuple[str, dict[str, str]]]) -> None:
    """Make sure that every option a per-layer rule sets is read by one of the passes.

    Raises:
        UsageError: Naming the first option nobody reads, and what there is.
    """
    known = sorted({option for step in passes for option in step.layer_options})
    for pattern, options in rules:
        for option in options:
            if option not in known:
                there = ", ".join(known) or "none"
                raise UsageError(
                    f"rule for {pattern!r}: no pass of the pipeline reads {option!r}; options of "
                    f"layers are: {there}"
                )
