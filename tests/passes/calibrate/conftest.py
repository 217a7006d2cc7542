"""A small net, data that counts its batches and can stop, and statistics compared bit for bit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effc.ir.program import Program
from effc.ir.testing import traced
from effc.passes.calibrate import collect
from effc.passes.calibrate.statistics import Statistics

BATCHES, CHECKPOINT = 7, 2


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu().mean((2, 3)))


class Counted:
    """Data that counts its batches and can be stopped at one, like a killed run."""

    def __init__(self, count: int = BATCHES, stop_at: int | None = None) -> None:
        self.count, self.stop_at, self.given = count, stop_at, 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for number in range(self.count):
            if number == self.stop_at:
                raise KeyboardInterrupt
            self.given += 1
            yield {"x": torch.randn(2 + number % 2, 2, 6, 6, generator=generator) * (1 + number)}

    def fingerprint(self) -> str:
        return "counted"


@pytest.fixture(scope="session")
def plain() -> type[Plain]:
    return Plain


@pytest.fixture(scope="session")
def counted() -> type[Counted]:
    return Counted


@pytest.fixture(scope="session")
def program() -> Program:
    return traced(Plain(), torch.randn(2, 2, 6, 6), dynamic={"x.0": "batch"})


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "CHECKPOINT_BATCHES", CHECKPOINT)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every batch the model runs on."""
    seen: list[int] = []
    original = collect.Collection._measure

    def noted(self: collect.Collection, number: int, batch: Any) -> Any:
        seen.append(number)
        return original(self, number, batch)

    monkeypatch.setattr(collect.Collection, "_measure", noted)
    return seen


@pytest.fixture(scope="session")
def identical() -> Callable[[Statistics, Statistics], None]:
    """Fails unless two statistics agree in every bit."""

    def check(one: Statistics, other: Statistics) -> None:
        assert one.values.keys() == other.values.keys()
        for name, value in one.values.items():
            first, second = value.arrays(), other[name].arrays()
            assert first.keys() == second.keys()
            for part, array in first.items():
                assert array.tobytes() == second[part].tobytes(), f"{name} {part}"

    return check
