"""The state of a training, kept so that it can be killed at any time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effc.passes.calibrate.store import Shelf

NAME = "state"
SAVE_SECONDS = 15.0


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: Steps done.
        seconds: Spent on them.
        best: Least loss on what was held out.
        best_step: After how many steps.
        stale: Judgements since then.
        rollbacks: How often a loss that is no number made it go back.
        is_done: Whether it ended.
        losses: What was judged: step, loss.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    best_step: int = 0
    stale: int = 0
    rollbacks: int = 0
    is_done: bool = False
    losses: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """Saves and restores a training.

    Attributes:
        shelf: Where; nothing is kept if None.
        leaves: What is trained; restored in place.
        optimizer: Its moments.
        best: Copies of the leaves at the least loss.
    """

    shelf: Shelf | None
    leaves: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    best: list[Tensor]
    _saved: float = field(default_factory=time.monotonic)

    def restore(self) -> State:
        """The state that was saved; a new one if there is none."""
        found = self.shelf.read(NAME) if self.shelf else None
        if found is None:
            return State()
        content, arrays = found
        if any(f"leaf-{i}" not in arrays for i in range(len(self.leaves))):
            return State()
        with torch.no_grad():
            for number, leaf in enumerate(self.leaves):
                leaf.copy_(torch.from_numpy(arrays[f"leaf-{number}"]))
                self.best[number] = torch.from_numpy(arrays[f"best-{number}"]).clone()
        moments = self.optimizer.state_dict()
        moments["state"] = {
            number: {
                name: torch.from_numpy(arrays[f"{name}-{number}"]).clone()
                for name in ("step", "exp_avg", "exp_avg_sq")
            }
            for number in range(len(self.leaves))
            if f"step-{number}" in arrays
        }
        self.optimizer.load_state_dict(moments)
        losses = [(int(step), float(loss)) for step, loss in content.pop("losses")]
        return State(**content, losses=losses)

    def save(self, state: State, is_due: bool = False) -> None:
        """Keep a state, if the last one is old or it is due."""
        if self.shelf is None or not (is_due or time.monotonic() - self._saved > SAVE_SECONDS):
            return
        arrays: dict[str, np.ndarray] = {}
        for number, (leaf, best) in enumerate(zip(self.leaves, self.best, strict=True)):
            arrays |= {f"leaf-{number}": leaf.detach().numpy(), f"best-{number}": best.numpy()}
        moments: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        for number, values in moments.items():
            arrays |= {f"{name}-{number}": one.numpy() for name, one in values.items()}
        self.shelf.write(NAME, vars(state), arrays)
        self._saved = time.monotonic()
