"""The command line in this process, small models beside it, and finished artifacts to share."""

import fcntl
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from effc import cli, compiler
from effc.backends.measure import Latency

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAST, SLOW = 1e-3, 2e-3
Cli = Callable[..., "Ran"]


@dataclass
class Ran:
    """What a command did.

    Attributes:
        code: Exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document it must be, without NaN."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} in JSON")

        return json.loads(self.out, parse_constant=refuse)

    @property
    def error(self) -> str:
        """The one error line; everything else on stderr must be progress or a note."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("effc: error: ")]
        others = [line for line in lines if line not in errors and not is_progress(line)]
        assert len(errors) == 1, self.err
        assert others == [], self.err
        return errors[0].removeprefix("effc: error: ")

    def assert_fails(self, code: int, *words: str) -> str:
        """Failed with this code and an error that holds these words."""
        assert self.code == code, (self.code, self.err)
        for word in words:
            assert word in self.error
        return self.error

    def assert_succeeds(self) -> "Ran":
        """Ended well, without an error line."""
        assert self.code == 0, self.err
        assert "effc: error" not in self.err
        return self


def is_progress(line: str) -> bool:
    """`effc:    1.2 s  build ...`, or a note."""
    words = line.split()
    is_stage = len(words) > 3 and words[0] == "effc:" and words[2] == "s"
    return is_stage and words[-1] in ("...", "done")


@pytest.fixture(autouse=True)
def _users_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own to work in, a cache of its own, and `cli_models` to import."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("EFFC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFC_TUNING", str(tmp_path / "tuning.jsonl"))
    monkeypatch.delenv("EFFC_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def models(_users_place: None) -> ModuleType:
    """The module `cli_models`."""
    return importlib.import_module("cli_models")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def call(*words: object) -> Ran:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start a command in a process of its own."""
    path = os.pathsep.join([str(HERE), str(ROOT / "tools")])

    def start(*words: object, **settings: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "effc", *map(str, words)],
            stdout=settings.get("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )

    return start


class Clock:
    """Latencies that a test decides instead of the machine.

    Attributes:
        seconds: By candidate name.
        calls: How many measurements there were.
    """

    def __init__(self) -> None:
        self.seconds = {"baseline": SLOW, "compiled": FAST}
        self.calls = 0

    def __call__(
        self, candidates: dict[str, Any], rounds: int, progress: Any
    ) -> dict[str, Latency]:
        self.calls += 1
        progress(rounds, rounds)
        return {name: Latency.of([self.seconds[name]]) for name in candidates}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Decided latencies: the result is twice as fast as the baseline."""
    made = Clock()
    monkeypatch.setattr(compiler, "interleaved", made)
    return made


@pytest.fixture(scope="session")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Make a folder once for all worker processes; whoever comes second waits and takes it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], Any]) -> Path:
        folder = base / name
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                make(folder)
        return folder

    return get


@pytest.fixture(scope="session")
def small_artifact(shared: Callable[..., Path]) -> Path:
    """The classifier in int8, compiled by a process of its own; not to be changed."""

    def make(folder: Path) -> None:
        command = (
            "compile cli_models:classifier --threads 1 --keep-going --calib cli_models:batches"
        )
        path = os.pathsep.join([str(HERE), str(ROOT / "tools")])
        subprocess.run(
            [sys.executable, "-m", "effc", *command.split(), "-o", str(folder)],
            check=True,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "EFFC_CACHE": str(folder.parent / "cache"),
                "EFFC_TUNING": str(folder.parent / "tuning.jsonl"),
            },
        )

    return shared("small-artifact", make)
