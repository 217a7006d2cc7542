"""Train the byte-level language model and write its weights and their record.

`python -m zoo.train_language_model` resumes where it was stopped: the checkpoint is in the user's
cache directory. The batches depend on the step alone, so a stop changes nothing but the time.
"""

import argparse
import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from zoo import cache, corpus
from zoo.publishing import publish
from zoo.training import rate_at
from zoo.transformer import Config, Decoder, initialise

SEED = 0
SAVE_EVERY = 250


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the model learns.

    Attributes:
        short_steps: steps on windows of `short_length` bytes.
        long_steps: further steps on windows of `long_length` bytes, for the whole context.
        short_length: bytes predicted in a short window.
        long_length: bytes predicted in a long window.
        batch_bytes: bytes predicted in a step; a multiple of both lengths.
        rate: highest learning rate of AdamW.
        decay: weight decay.
        warmup: share of the steps in which the rate rises.
    """

    short_steps: int = 6000
    long_steps: int = 4500
    short_length: int = 256
    long_length: int = 512
    batch_bytes: int = 2048
    rate: float = 1.5e-3
    decay: float = 0.1
    warmup: float = 0.02

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.short_steps + self.long_steps

    @property
    def trained_bytes(self) -> int:
        """Number of bytes predicted in training."""
        return self.steps * self.batch_bytes

    def windows(self, text: NDArray[np.uint8], step: int) -> Tensor:
        """The windows of a step, int64 [batch, length + 1]."""
        length = self.short_length if step < self.short_steps else self.long_length
        batch = self.batch_bytes // length
        return torch.from_numpy(corpus.windows(text, step * batch, batch, length + 1))


@dataclass
class Run:
    """A training in progress.

    Attributes:
        model: the weights.
        optimiser: AdamW and its moments.
        step: number of steps done.
        seconds: time spent, over all restarts.
        loss: running mean of the training loss, nats per byte.
    """

    model: Decoder
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    loss: float = float("nan")

    def save(self, path: Path) -> None:
        """Write the checkpoint; the path never shows a partial file."""
        state = {name: getattr(self, name) for name in ("step", "seconds", "loss")}
        parts = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state | parts, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state = torch.load(path)
        self.model.load_state_dict(state.pop("model"))
        self.optimiser.load_state_dict(state.pop("optimiser"))
        for name, value in state.items():
            setattr(self, name, value)


def begin(config: Config, schedule: Schedule) -> Run:
    """A run at step 0, from a fixed seed."""
    torch.manual_seed(SEED)
    model = Decoder(config)
    initialise(model)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    scales = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": schedule.decay},
        {"params": scales},
    ]
    optimiser = torch.optim.AdamW(groups, schedule.rate, (0.9, 0.95), weight_decay=0, fused=True)
    return Run(model, optimiser)


def checkpoint_of(config: Config, schedule: Schedule) -> Path:
    """Where the checkpoint of a training is kept; another training has another file."""
    digest = hashlib.sha256(repr((config, schedule)).encode()).hexdigest()
    return cache.directory() / f"language_model-{digest[:16]}.checkpoint"


def train(run: Run, schedule: Schedule, text: NDArray[np.uint8], checkpoint: Path) -> None:
    """Do the remaining steps, with progress on the terminal and checkpoints on disk."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("", total=schedule.steps)
        while run.step < schedule.steps:
            advance(run, schedule, text)
            progress.update(task, completed=run.step, description=f"loss {run.loss:.4f}")
            if run.step % SAVE_EVERY == 0 or run.step == schedule.steps:
                run.save(checkpoint)
                left = run.seconds / run.step * (schedule.steps - run.step)
                progress.log(f"step {run.step}, loss {run.loss:.4f}, minutes left {left / 60:.0f}")


def advance(run: Run, schedule: Schedule, text: NDArray[np.uint8]) -> None:
    """Do one step on its windows of the training text, uint8 [bytes]."""
    start = time.perf_counter()
    windows = schedule.windows(text, run.step)
    for group in run.optimiser.param_groups:
        group["lr"] = schedule.rate * rate_at((run.step + 1) / schedule.steps, schedule.warmup)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run.model(windows[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
    run.optimiser.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimiser.step()
    run.loss = loss.item() if run.step == 0 else 0.98 * run.loss + 0.02 * loss.item()
    run.seconds += time.perf_counter() - start
    run.step += 1


def training_record(run: Run, schedule: Schedule) -> dict[str, Any]:
    """How the model came about."""
    return {
        "command": "python -m zoo.train_language_model",
        "schedule": asdict(schedule),
        "trained_bytes": schedule.trained_bytes,
        "seconds": round(run.seconds),
    }


def main() -> None:
    """Train, or continue a training, and publish the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    torch.set_num_threads(parser.parse_args().threads)
    config, schedule = Config(), Schedule()
    run = begin(config, schedule)
    checkpoint = checkpoint_of(config, schedule)
    if checkpoint.exists():
        run.load(checkpoint)
    train(run, schedule, corpus.split(held_out=False).text, checkpoint)
    record = publish(run.model, training_record(run, schedule))
    print(f"perplexity per byte {record['perplexity_per_byte']:.4f}, {record['nbytes']:,} bytes")


if __name__ == "__main__":
    main()
