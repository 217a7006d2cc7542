"""Models in which every kernel family computes something, at sizes that leave tails everywhere."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Maps(nn.Module):
    """Convolutions of every kind, pooling, norms over maps, sums over all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 20, 7, stride=2, padding=3)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.wide = nn.Conv2d(20, 20, 5, stride=2, padding=2, groups=20)
        self.point = nn.Conv2d(20, 37, 1)
        self.grouped = nn.Conv2d(20, 8, 3, padding=2, dilation=2, groups=4)
        self.valid = nn.Conv2d(37, 5, 3)
        self.norm = nn.GroupNorm(4, 20)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.silu(self.stem(x))
        y = functional.relu(self.depthwise(x)) + x
        z = functional.max_pool2d(self.point(self.wide(y)), 3, 2, 1)
        pooled = functional.avg_pool2d(self.grouped(self.norm(y)), 2, ceil_mode=True)
        last = self.valid(functional.pad(z, (1, 0, 2, 1))).sigmoid()
        each = [
            last,
            pooled,
            pooled.mean((2, 3)),
            y.argmax(1).float(),
            y.sum((1, 2, 3), keepdim=True),
        ]
        return [*each, y.sum(), y.amax((0, 2, 3))]


class Rows(nn.Module):
    """Linear layers, attention, norms, products of two values, running sums, gathers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.rms = nn.LayerNorm(24), nn.RMSNorm(24)
        self.project = nn.Linear(24, 72)
        self.up, self.down = nn.Linear(24, 53), nn.Linear(53, 24, bias=False)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        batch, steps, _ = x.shape
        parts = self.project(self.norm(x)).view(batch, steps, 3, 3, 8).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(batch, steps, 24)
        x = x + self.down(functional.gelu(self.up(self.rms(x))))
        scores = x @ x.transpose(1, 2)
        places = scores.argmax(-1).clamp(max=steps - 1)
        found = torch.cat([x.flip(1), x[:, places[0]]], 1)
        return [self.head(x), scores.softmax(-1), x.cumsum(1), found, x.square().mean(-1), x > 0]


class Few(nn.Module):
    """Linear layers of few rows, whose activations are read in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(45, 53), nn.Linear(53, 7, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.down(functional.relu(self.up(x)))]


SHAPES = {"maps": (2, 3, 23, 19), "rows": (2, 13, 24), "few": (3, 45)}
MODULES = {"maps": Maps, "rows": Rows, "few": Few}


def example(module: str) -> Tensor:
    """An input of a module."""
    return torch.randn(SHAPES[module], generator=torch.Generator().manual_seed(1))


class Joined(nn.Module):
    """Outputs of a module that have a batch, flattened into one row per image or sequence."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([value.float().flatten(1) for value in self.inner(x)[:5]], 1)
