"""Models, data, metrics and passes that tests name as `cli_models:name` from this folder."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import effc
from effc.passes.base import PassContext

WIDTH, CLASSES = 32, 8
LOUD = 3e4


class Classifier(nn.Module):
    """Two hidden layers; the labels of `labelled` are its own answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 48)
        self.second = nn.Linear(48, 48)
        self.last = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


class Layer(nn.Module):
    """A residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Residual(nn.Module):
    """Four residual blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Layer() for _ in range(4)])
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


class Spectrum(nn.Module):
    """Holds two operators effc does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(torch.fft.rfft(x).abs())


def residual() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    return Residual().eval(), (torch.randn(1, WIDTH),)


def classifier() -> tuple[nn.Module, tuple[Tensor]]:
    torch.manual_seed(0)
    return Classifier().eval(), (torch.randn(1, WIDTH),)


def with_outlier() -> tuple[nn.Module, tuple[Tensor]]:
    """The classifier with one input of `second` that is huge and hardly read: eight bits of a
    common scale leave nothing of the other inputs."""
    model, example = classifier()
    with torch.no_grad():
        model.first.weight[0] = 0
        model.first.bias[0] = LOUD
        model.second.weight[:, 0] = 0
        model.second.weight[0, 0] = 1e-6
    return model, example


def spectrum() -> tuple[nn.Module, tuple[Tensor]]:
    return Spectrum(), (torch.randn(4, 8),)


def rows(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def batches() -> Iterator[dict[str, np.ndarray]]:
    for row in rows(1, 24):
        yield {"x": row[None]}


def slow_batches() -> Iterator[dict[str, np.ndarray]]:
    for batch in batches():
        time.sleep(0.02)
        yield batch


def labelled(factory: Any = classifier) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    model, _ = factory()
    for row in rows(2, 64):
        with torch.inference_mode():
            label = model(torch.from_numpy(row[None])).argmax(-1)
        yield {"x": row[None]}, label.numpy()


def labelled_outlier() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    return labelled(with_outlier)


def with_nan() -> Iterator[dict[str, np.ndarray]]:
    yield {"x": np.full((1, WIDTH), np.nan, np.float32)}


def nothing() -> Iterator[dict[str, np.ndarray]]:
    return iter(())


def margins(results: Iterable[tuple[dict[str, np.ndarray], Any]]) -> dict[str, float]:
    """Share of right answers, and a second number nothing is judged by."""
    right = [(next(iter(found.values())).argmax(-1) == label).mean() for found, label in results]
    return {"right": float(np.mean(right)), "count": float(len(right))}


def broken(results: Iterable[Any]) -> float:
    raise RuntimeError("no ground truth here")


def wordy(results: Iterable[Any]) -> Any:
    return "good"


@dataclass(frozen=True)
class ScaleBias(effc.Pass):
    """Multiplies the bias of the last layer."""

    name: ClassVar[str] = "scale-bias"
    factor: float = 2.0

    def run(self, program: effc.Program, ctx: PassContext) -> effc.Outcome:
        """Write a new bias in place of the old one."""
        program.forward.last.bias = nn.Parameter(program.forward.last.bias * self.factor, False)
        return effc.Outcome(self.factor != 1, {"factor": self.factor})


@dataclass(frozen=True)
class Failing(effc.Pass):
    """Raises."""

    name: ClassVar[str] = "failing"

    def run(self, program: effc.Program, ctx: PassContext) -> effc.Outcome:
        """Raise."""
        raise RuntimeError("nobody tested this")
