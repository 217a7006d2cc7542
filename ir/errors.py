"""Every error effc raises, with the exit code the command line gives it.

A message says what went wrong, where (the name in the user's model or command), what was expected
against what was found, and what to do. The command line prints it as one line.
"""

from dataclasses import dataclass

INTERNAL, USAGE, UNSUPPORTED, BUDGET, SLOWER, MISMATCH = 1, 2, 3, 4, 5, 6


class EffcError(Exception):
    """Base of every error a user can see; `exit_code` is what the command line returns."""

    exit_code = INTERNAL


class UsageError(EffcError):
    """A wrong option, name, pattern or argument."""

    exit_code = USAGE


class ModelError(EffcError):
    """A model file or module that cannot be read or traced."""

    exit_code = USAGE


class DataError(EffcError):
    """Calibration or evaluation data that cannot be used."""

    exit_code = USAGE


class TargetError(EffcError):
    """An unknown target, a wrong fact, or a target this machine cannot build or run."""

    exit_code = USAGE


class ArtifactError(EffcError):
    """An artifact folder that is incomplete, damaged or built for another machine."""

    exit_code = USAGE


class InputError(EffcError):
    """An input of a program or artifact with the wrong name, dtype or shape."""

    exit_code = USAGE


class NotAvailableError(EffcError):
    """A documented feature this version does not have yet."""

    exit_code = USAGE

    def __init__(self, feature: str) -> None:
        super().__init__(f"{feature} is not available yet")


@dataclass(frozen=True)
class Unsupported:
    """One operator that something cannot handle.

    Attributes:
        op: The operator, such as `aten.fft_fft.default`.
        source: The module path of the first such node in the user's model.
        reason: Why it is not handled.
        count: How many nodes there are with this operator and reason.
    """

    op: str
    source: str
    reason: str
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} nodes)" if self.count > 1 else ""
        where = f" at {self.source}" if self.source else ""
        return f"{self.op}{where}{times}: {self.reason}"


class UnsupportedError(EffcError):
    """Operators nothing can handle, all listed at once in `operators`."""

    exit_code = UNSUPPORTED

    def __init__(self, what: str, operators: list[Unsupported]) -> None:
        self.operators = operators
        listing = "; ".join(str(entry) for entry in operators)
        super().__init__(f"{what} does not support {len(operators)} operator(s): {listing}")


class BudgetError(EffcError):
    """A budget that cannot be met; the message names the nearest feasible value."""

    exit_code = BUDGET


class SlowerError(EffcError):
    """The compiled result is slower than the baseline."""

    exit_code = SLOWER


class MismatchError(EffcError):
    """The artifact's outputs differ from the program's."""

    exit_code = MISMATCH


class VerifyError(EffcError):
    """A program that breaks a structural rule; a bug in a pass, named in the message."""


class BuildError(EffcError):
    """Code generation, compiling or linking failed."""


@dataclass(frozen=True)
class Refusal:
    """A rewrite or a pass that declined to act, with the reason; returned and counted, not logged.

    Attributes:
        rule: The rule or pass that declined.
        source: The node it declined, by its name in the user's model.
        reason: Why, in words that help the user.
    """

    rule: str
    source: str
    reason: str
