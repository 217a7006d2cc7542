"""Several processes that train one model together (`torchrun`): gradients are averaged."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, distributed

from effc.ir import options

Item = TypeVar("Item")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        rank: Its number.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls) -> "Workers":
        """The group `torchrun` made; alone without it."""
        rank, world = options.worker()
        if world > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo", rank=rank, world_size=world)
        return cls(rank, world)

    @property
    def is_first(self) -> bool:
        """Whether this process keeps checkpoints."""
        return self.rank == 0

    def share(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every `world`-th item; all processes get the same number of them, at least one."""
        pending = iter(items)
        together = list(islice(pending, self.world))
        if together and len(together) < self.world:
            yield together[self.rank % len(together)]
        while len(together) == self.world:
            yield together[self.rank]
            together = list(islice(pending, self.world))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over all processes."""
        if self.world == 1:
            return
        found = list(tensors)
        flat = torch.cat([one.flatten() for one in found])
        distributed.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [one.numel() for one in found])
        for one, value in zip(found, parts, strict=True):
            one.copy_(value.reshape(one.shape))

    def largest(self, value: float) -> float:
        """The largest value any process has."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return float(shared)
