"""Options and fixtures of the whole suite."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from effc.ir.program import Program
from effc.ir.verify import verify
from effc.passes import manager
from effc.passes.base import Outcome, Pass, PassContext

settings.register_profile("effc", deadline=None, derandomize=True, database=None)
settings.load_profile("effc")

HERE = Path(__file__).parent
SMALL_TENSORS = ("backends", "driver", "passes/bits", "passes/calibrate")
Run = Callable[[Pass, Program, PassContext], Outcome]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write the expected texts in tests/golden anew",
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where all tensors are small, one thread is faster than handing out the work."""
    threads = torch.get_num_threads()
    if any(request.path.is_relative_to(HERE / folder) for folder in SMALL_TENSORS):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _verify_around_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify the program a pass makes also where a test calls `run` without the manager."""
    for kind in _subclasses(Pass):
        if "run" in vars(kind):
            monkeypatch.setattr(kind, "run", _verified(kind.run))


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _verified(run: Run) -> Run:
    @wraps(run)
    def checked(self: Pass, program: Program, ctx: PassContext) -> Outcome:
        outcome = run(self, program, ctx)
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        if caller is None or caller.f_code is not manager._guarded.__code__:
            verify(program)
        return outcome

    return checked
