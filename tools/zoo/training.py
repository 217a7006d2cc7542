"""Training of the digit classifiers: seeded, augmented, under a minute each."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import images

SEED = 0
BATCH = 64
THREADS = 1


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        network: makes the untrained network.
        epochs: passes over the training split.
        rate: highest learning rate of AdamW.
        decay: weight decay.
    """

    network: Callable[[], nn.Module]
    epochs: int
    rate: float
    decay: float


def train(recipe: Recipe) -> nn.Module:
    """Train a network from a fixed seed; the caller's random state stays as it is.

    Returns:
        The network, in evaluation mode.
    """
    data, _ = images.load()
    x, labels = torch.from_numpy(data.x), torch.from_numpy(data.labels)
    with reproducible():
        model = recipe.network().train()
        optimiser = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.decay)
        steps = recipe.epochs * (len(x) // BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: rate_at(at / steps))
        for _ in range(recipe.epochs):
            for rows in torch.split(torch.randperm(len(x)), BATCH)[: len(x) // BATCH]:
                logits = model(distort(x[rows]))
                loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
    return model.eval()


@contextmanager
def reproducible() -> Iterator[None]:
    """Fix the seed and the number of threads, and restore both afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        torch.set_num_threads(THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def rate_at(done: float, warmup: float = 0.1) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine down to zero.

    Args:
        done: share of the training that has passed, 0 to 1.
        warmup: share of the training in which the rate rises.
    """
    if done < warmup:
        return done / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (1 - warmup))


def distort(x: Tensor) -> Tensor:
    """Turn, scale and shift every image a little, each differently.

    Args:
        x: [batch, 1, height, width].
    """
    count = x.shape[0]
    angle = (torch.rand(count) * 2 - 1) * math.radians(12)
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    shift = (torch.rand(count, 2) * 2 - 1) * 0.15
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = [cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]]
    matrix = torch.stack(rows, dim=1).view(count, 2, 3)
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
