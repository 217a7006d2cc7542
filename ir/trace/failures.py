"""What torch.export says when it fails, in one line a user can act on."""

import re
import sysconfig
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from effc.ir.errors import EffcError, ModelError
from effc.ir.symbols import Symbol
from effc.ir.trace.inputs import LARGEST, example_sizes

MESSAGE_LENGTH = 300
VIOLATED = re.compile(r"Constraints violated \((?P<names>[^)]*)\)")
CONSTANT = re.compile(r"^\s*(?P<name>\w+) = (?P<size>\d+)$", re.MULTILINE)
EQUAL = re.compile(r"^\s*(?P<name>\w+) = (?P<other>[A-Za-z]\w*)$", re.MULTILINE)
RANGE = re.compile(r"^\s*(?P<name>[A-Za-z]\w*) = Dim\('\w+'(?P<bounds>[^)]*)\)$", re.MULTILINE)
DERIVED = re.compile(r"^\s*(?P<name>\w+) = (?P<form>[^=\n]*\b_\w+\b[^=\n]*)$", re.MULTILINE)
BOUND = re.compile(r"(min|max)=(\d+)")
NUMBER = re.compile(r"(?<![\w.])[0-9]{1,9}(?![\w.])")
TRIES = 4
# What zipfile, json, pickletools and numpy raise on files with some bytes changed.
DAMAGED: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, OSError),
    *(EOFError, SyntaxError, MemoryError, NotImplementedError, RecursionError),
    *(zipfile.BadZipFile, zlib.error),
)
DATA_DEPENDENT = "GuardOnDataDependentSymNode"


@dataclass(frozen=True)
class Violation:
    """A dimension that cannot be symbolic in the way the user asked.

    Attributes:
        symbol: The user's name of the dimension.
        reason: What the model does with it.
        remedy: What to write instead.
        bounds: The range the model allows, if that is what it restricts.
    """

    symbol: str
    reason: str
    remedy: str
    bounds: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"the dimension {self.symbol} {self.reason}; {self.remedy}"


def violations(error: BaseException) -> list[Violation]:
    """Read torch.export's report of symbolic dimensions the model restricts; empty for others."""
    message = str(error)
    match = VIOLATED.search(message)
    if match is None:
        return []
    names = sorted({name.strip() for name in match["names"].split(",")})
    fixes = message.partition("Suggested fixes:")[2]
    return [_violation(name, fixes) for name in names]


def _violation(name: str, fixes: str) -> Violation:
    fixed = {found["name"]: found["size"] for found in CONSTANT.finditer(fixes)}
    equal = {found["name"]: found["other"] for found in EQUAL.finditer(fixes)}
    ranges = {found["name"]: found["bounds"] for found in RANGE.finditer(fixes)}
    derived = {found["name"]: found["form"] for found in DERIVED.finditer(fixes)}
    if name in fixed:
        return Violation(
            name, f"cannot be symbolic: the model fixes it at {fixed[name]}", "give it a number"
        )
    if name in ranges:
        limits = dict(BOUND.findall(ranges[name]))
        low, high = limits.get("min", "1"), limits.get("max", "")
        reason, remedy = f"may only be {low}..{high} in this model", f"write {name}={low}..{high}"
        return Violation(name, reason, remedy, (int(low), int(high or LARGEST)))
    if name in derived:
        form = derived[name].replace("_" + name, "n").strip()
        return Violation(name, f"must have the form {form} in this model", "give it a number")
    if name in equal:
        return Violation(
            name, f"always equals {equal[name]} in this model", "give both the same name"
        )
    return Violation(name, "cannot be symbolic in this model", "give it a number")


def telling_sizes(symbols: dict[str, Symbol], message: str) -> Iterator[dict[str, int]]:
    """Sizes of symbols worth another try after a failure: numbers it mentions, and all equal."""
    sizes = example_sizes(symbols)
    for number in sorted({int(digits) for digits in NUMBER.findall(message)})[:TRIES]:
        for name, symbol in symbols.items():
            if 1 < number != sizes[name] and symbol.minimum <= number <= symbol.maximum:
                yield {**sizes, name: number}
    low = max((symbol.minimum for symbol in symbols.values()), default=1)
    high = min((symbol.maximum for symbol in symbols.values()), default=1)
    if len(symbols) > 1 and max(low, 2) <= high:
        yield dict.fromkeys(symbols, max(low, 2))


def explain(error: BaseException, what: str) -> EffcError:
    """A one-line error for whatever went wrong while tracing; effc's own errors stay as they are.

    Args:
        error: What torch, transformers or the user's code raised.
        what: The action and the model, such as `cannot trace Net`.
    """
    if isinstance(error, EffcError):
        return error
    if found := violations(error):
        return ModelError(f"{what}: " + "; ".join(map(str, found)))
    where = location(error)
    place = f" at {where}" if where else ""
    if type(error).__name__ == DATA_DEPENDENT:
        return ModelError(
            f"{what}: control flow or a size depends on the values of a tensor{place}; "
            "use torch.where or torch.cond, or make it a constant"
        )
    if isinstance(error, MemoryError):
        return ModelError(f"{what}: out of memory")
    return ModelError(f"{what}: {one_line(error)}{place}")


def one_line(error: BaseException) -> str:
    """The first line of the deepest cause of an error, with its type where that helps."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if len(text) > MESSAGE_LENGTH:
        text = text[:MESSAGE_LENGTH] + "..."
    name = type(error).__name__
    return text if text and name in ("RuntimeError", "ValueError") else f"{name}: {text}"


def location(error: BaseException) -> str:
    """`file:line` of the innermost frame outside torch, effc and Python's library, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_user_code(Path(frame.filename)):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_user_code(path: Path) -> bool:
    own = (Path(torch.__file__).parent, Path(__file__).parents[1])
    if not path.is_file() or any(path.is_relative_to(folder) for folder in own):
        return False
    standard = path.is_relative_to(sysconfig.get_path("stdlib"))
    return not standard or "site-packages" in path.parts
