"""Models that tests open as `sample_models:name` from this folder."""

import torch
from torch import nn


class Net(nn.Module):
    """A small module with a tied weight, a norm and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.second = nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.norm(torch.relu(self.first(x)))
        return {"hidden": hidden, "total": self.second(x) + hidden.sum()}


class Spectrum(nn.Module):
    """Holds two operators effc does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(torch.fft.rfft(x).abs())


class Decomposition(nn.Module):
    """Holds two other operators effc does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, values, right = torch.linalg.svd(x, full_matrices=False)
        return torch.special.airy_ai((left * values) @ right)


def net() -> Net:
    return seeded(Net)


def net_with_inputs() -> tuple[Net, tuple[torch.Tensor]]:
    return seeded(Net), (torch.randn(5, 4),)


def net_with_keywords() -> tuple[Net, dict[str, torch.Tensor]]:
    return seeded(Net), {"x": torch.randn(5, 4)}


def spectrum() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Spectrum(), (torch.randn(4, 8),)


def decomposition() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Decomposition(), (torch.randn(4, 8),)


def failing() -> nn.Module:
    raise RuntimeError("no weights here")


def number() -> int:
    return 3


constant = 3
module = Net()


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()
