"""The tuning database: measured kernels as JSON lines in one file that only grows.

The first line says what the file is; every other line is an `Entry` or a `Profile`. Writers hold a
lock and write whole lines at once; what a killed writer left of a line is cut off by the next one,
and readers ignore it.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from effc.ir.errors import UsageError

FORMAT = 1
HEADER = f'{{"effc": "tuning", "format": {FORMAT}}}\n'.encode()
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Place(_Line):
    """Where and with what kernels are measured; times of different places do not compare.

    Attributes:
        machine: The processor's name.
        target: Facts kernels are built from.
        threads: Threads that share the work.
        versions: Of effc, its kernel generators, and the compiler below them.
    """

    machine: str
    target: dict[str, str | int]
    threads: int
    versions: dict[str, str]


class KernelKey(_Line):
    """A kernel at a shape, somewhere.

    Attributes:
        kernel: Fingerprint of the region it computes, with all its static sizes.
        sizes: Values of the symbolic sizes.
        place: Where it is measured.
    """

    kernel: str
    sizes: dict[str, int]
    place: Place

    @property
    def text(self) -> str:
        """Canonical text; equal for equal keys."""
        return json.dumps(self.model_dump(), sort_keys=True)


class Entry(_Line):
    """One schedule of one kernel, measured or found not to work.

    Attributes:
        kind: What line this is.
        key: Which kernel.
        family: Its family.
        schedule: What was chosen, by name.
        rounds: In how many interleaved rounds it was measured.
        seconds: The median; None if it does not work.
        low: 10th percentile.
        high: 90th percentile.
        default_seconds: The median of the default schedule in the same rounds.
        problem: Why it does not work: it crashed, took too long, or computed something else.
        when: UTC, ISO 8601.
    """

    kind: Literal["entry"] = "entry"
    key: KernelKey
    family: str
    schedule: dict[str, int]
    rounds: int = Field(ge=0)
    seconds: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None
    default_seconds: Positive | None = None
    problem: str | None = None
    when: str

    @model_validator(mode="after")
    def _works_or_not(self) -> "Entry":
        if (self.seconds is None) == (self.problem is None):
            raise ValueError("a measurement has either seconds or a problem")
        return self

    @property
    def ratio(self) -> float | None:
        """Its time over the default's of the same rounds; None if it does not work."""
        if self.seconds is None or self.default_seconds is None:
            return None
        return self.seconds / self.default_seconds


class Profile(_Line):
    """How long the kernels of a model take in it, from which trials are shared out.

    Attributes:
        kind: What line this is.
        model: Fingerprint of its kernels.
        seconds: By kernel, over all its calls.
        place: Where it was measured.
        sizes: Values of the symbolic sizes.
        when: UTC, ISO 8601.
    """

    kind: Literal["profile"] = "profile"
    model: str
    seconds: dict[str, float]
    place: Place
    sizes: dict[str, int]
    when: str


Line = Entry | Profile
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


@dataclass
class TuningDatabase:
    """Everything measured so far.

    Several processes may append at once; each sees what was there when it read last, and what it
    added itself.

    Attributes:
        path: The file; it and its folder appear with the first line.
    """

    path: Path
    _entries: dict[str, list[Entry]] = field(default_factory=dict)
    _profiles: list[Profile] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> "TuningDatabase":
        """Read a database; an absent file is an empty one.

        Raises:
            UsageError: If the file cannot be read, is something else, or is damaged.
        """
        found = cls(path)
        for line in _lines(path):
            found._add(line)
        return found

    def lookup(self, key: KernelKey) -> tuple[Entry, ...]:
        """Everything known of a kernel, in the order it was measured."""
        return tuple(self._entries.get(key.text, ()))

    def best(self, key: KernelKey) -> Entry | None:
        """The fastest schedule beside the default among those measured most often.

        The default's own entry may be it.
        """
        working = [e for e in self.lookup(key) if e.ratio is not None]
        most = max((e.rounds for e in working), default=0)
        finalists = [e for e in working if e.rounds == most]
        return min(finalists, key=lambda e: e.ratio or 1.0, default=None)

    def profile(self, model: str, place: Place, sizes: dict[str, int]) -> Profile | None:
        """The profile of a model; the first one stays, so that a search repeats itself."""
        wanted = (model, place, sizes)
        return next((p for p in self._profiles if (p.model, p.place, p.sizes) == wanted), None)

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines, all of them or (if the process is killed) the first ones.

        Raises:
            UsageError: If the file cannot be written.
        """
        text = "".join(f"{line.model_dump_json(exclude_none=True)}\n" for line in lines)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _appending(self.path) as file:
                _write(file, text.encode())
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from error
        for line in lines:
            self._add(line)

    def _add(self, line: Line) -> None:
        if isinstance(line, Entry):
            self._entries.setdefault(line.key.text, []).append(line)
        else:
            self._profiles.append(line)


@contextmanager
def _appending(path: Path) -> Iterator[int]:
    """A locked file that ends with a whole line and begins with the header."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        content = path.read_bytes()
        whole = _whole_lines(path, content)
        if len(whole) < len(content):  # a killed writer's, since nobody else holds the lock
            os.ftruncate(file, len(whole))
        if not whole:
            _write(file, HEADER)
        yield file
        os.fsync(file)
    finally:
        os.close(file)


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


def _lines(path: Path) -> Iterable[Line]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot read the tuning database {path}: {error.strerror}") from error
    rows = _whole_lines(path, content).split(b"\n")[1:-1]
    for number, row in enumerate(rows, 2):
        try:
            yield _LINE.validate_json(row)
        except ValidationError as error:
            raise UsageError(
                f"the tuning database {path} is damaged: line {number} is no measurement; move it "
                "away, or name another with EFFC_TUNING"
            ) from error


def _whole_lines(path: Path, content: bytes) -> bytes:
    """The file without a line that was cut off.

    Raises:
        UsageError: If it does not begin as a database does.
    """
    whole = content[: content.rfind(b"\n") + 1]
    if whole.startswith(HEADER) or (not whole and HEADER.startswith(content)):
        return whole
    told = f"is no tuning database of format {FORMAT}"
    raise UsageError(f"{path} {told}; move it away, or name another with EFFC_TUNING")
