"""The loop: steps on shuffled batches, judged on what is held out; the best state wins."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx

from effc.ir.errors import DataError
from effc.passes.base import PassContext
from effc.passes.bits.metrics.running import Values
from effc.passes.calibrate.store import Shelf
from effc.passes.recover.batches import Batch, Batches
from effc.passes.recover.checkpoint import Checkpoint, State
from effc.passes.recover.nested import Nested
from effc.passes.recover.points import Guide
from effc.passes.recover.teacher import Teacher
from effc.passes.recover.trainables import Trainable
from effc.passes.recover.workers import Workers

JUDGEMENTS = 20
WARM_UP = 0.05
CLIP = 1.0
ROLLBACKS = 3
PENALTY = 0.01


@dataclass(frozen=True)
class Budget:
    """How long and how fast to train.

    Attributes:
        minutes: Of training; 0 for no limit.
        steps: Of the optimizer; 0 for no limit.
        rate: Learning rate at its height.
        hidden: Weight of the error inside, at the ends of blocks.
        intervention: Part of the training in which the teacher's values go on inside, at first at
            all places, then at fewer and fewer from the last; 1 keeps them to the end.
        patience: After how many judgements without a better loss to stop; 0 for never.
    """

    minutes: float
    steps: int
    rate: float
    hidden: float
    intervention: float
    patience: int

    @property
    def inside(self) -> float:
        """Weight of the error inside; intervention alone has no other way to early blocks."""
        return self.hidden or (1.0 if self.intervention else 0.0)

    def progress(self, state: State) -> float:
        """How much of it is used, 0 to 1."""
        by_time = state.seconds / (60 * self.minutes) if self.minutes else 0.0
        by_steps = state.step / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_steps))

    def rate_at(self, progress: float, rollbacks: int) -> float:
        """Linear warm-up, cosine descent; halved with every rollback."""
        rise = min(1.0, (progress + 1e-3) / WARM_UP)
        return self.rate * rise * (1 + math.cos(math.pi * progress)) / 2 / 2**rollbacks

    def forced(self, progress: float, places: int) -> int:
        """At how many places the teacher's value goes on."""
        if self.intervention >= 1:
            return places
        left = 1 - progress / self.intervention if self.intervention else 0.0
        return math.ceil(places * max(0.0, left))


@dataclass(eq=False)
class Training:
    """Trains what was chosen until the budget is used or nothing improves.

    Attributes:
        module: The student's graph.
        trainables: What is trained.
        teacher: What it learns from.
        batches: What it learns on.
        budget: How long and how fast.
        ctx: Seed and progress.
        shelf: Where the state is kept.
        workers: Who trains together.
        nested: Sub-models that learn the same.
    """

    module: fx.GraphModule
    trainables: list[Trainable]
    teacher: Teacher
    batches: Batches
    budget: Budget
    ctx: PassContext
    shelf: Shelf | None
    workers: Workers
    nested: Nested

    def __post_init__(self) -> None:
        """Collect what is trained."""
        named = {name: one for t in self.trainables for name, one in t.tensors.items()}
        self.leaves = list(named.values())
        self.optimizer = torch.optim.AdamW(self.leaves, lr=self.budget.rate, weight_decay=0.0)
        self.best = [leaf.detach().clone() for leaf in self.leaves]
        self.guide = Guide(self.module, self.teacher.points)

    def run(self) -> State:
        """Train; the leaves hold the best state afterwards.

        Raises:
            DataError: If the loss is no number before anything is trained.
        """
        shelf = self.shelf if self.workers.is_first else None
        checkpoint = Checkpoint(shelf, self.leaves, self.optimizer, self.best)
        state = checkpoint.restore()
        if not state.losses:
            self._judge(state)
            if not math.isfinite(state.losses[0][1]):
                raise DataError("recover: the loss on held-out data is no number before training")
        steps = self._steps(state.step)
        try:
            while not state.is_done:
                self._one(state, next(steps))
                checkpoint.save(state, state.is_done)
        finally:
            checkpoint.save(state, is_due=True)
        self._restore_best()
        return state

    def judged(self) -> float:
        """The mean loss on what is held out."""
        with torch.no_grad():
            known = self._values()
            losses = [self._loss(batch, known, 0) for batch in self._held]
        return sum(losses) / len(losses)

    @cached_property
    def _held(self) -> list[Batch]:
        return self.batches.held()

    def _steps(self, done: int) -> Iterator[Batch]:
        """Training batches without end; those of steps already done are skipped."""
        epoch = 0
        while True:
            rng = self.ctx.rng(f"recover/epoch {epoch}")
            for batch in self.workers.share(self.batches.epoch(rng)):
                if done:
                    done -= 1
                else:
                    yield batch
            epoch += 1

    def _one(self, state: State, batch: Batch) -> None:
        started = time.perf_counter()
        before = self.budget.progress(state)
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.rate_at(before, state.rollbacks)
        self.optimizer.zero_grad(set_to_none=False)
        forced = self.budget.forced(before, len(self.teacher.points))
        loss = self._objective(batch, before, forced)
        is_sound = self.workers.largest(0.0 if math.isfinite(loss.item()) else 1.0) == 0.0
        if is_sound:
            torch.autograd.backward(loss)
            self.workers.average(leaf.grad for leaf in self.leaves if leaf.grad is not None)
            torch.nn.utils.clip_grad_norm_(self.leaves, CLIP)
            self.optimizer.step()
        state.step += 1
        state.seconds = self.workers.largest(state.seconds + time.perf_counter() - started)
        if not is_sound:
            self._roll_back(state)
        self._after(state, before, loss.item())

    def _after(self, state: State, before: float, loss: float) -> None:
        """Judge, decide whether to go on, and say where it stands."""
        now = self.budget.progress(state)
        if int(now * JUDGEMENTS) > int(before * JUDGEMENTS) or now >= 1:
            self._judge(state)
        tired = 0 < self.budget.patience <= state.stale
        state.is_done = now >= 1 or tired or state.rollbacks >= ROLLBACKS
        left = state.seconds / max(now, 1e-9) * (1 - now)
        remark = f"loss {state.losses[-1][1]:.4g} held out, {loss:.4g} now, {left:.0f} s left"
        self.ctx.progress(f"recover; {remark}", 1000 if state.is_done else int(now * 999), 1000)

    def _objective(self, batch: Batch, progress: float, forced: int) -> Tensor:
        answers, taught = self.teacher.answers(batch)
        inputs, known = batch[: self.teacher.inputs], self._values()
        outputs, error = self.guide.run(inputs, known, taught, forced)
        loss = self.teacher.compare(batch, answers, outputs) + self.budget.inside * error
        for outputs in self.nested.outputs(inputs, known):
            loss = loss + self.teacher.compare(batch, answers, outputs)
        penalties = [t.change.penalty(progress) for t in self.trainables]
        found = [one for one in penalties if one is not None]
        return loss + PENALTY * torch.stack(found).mean() if found else loss

    def _loss(self, batch: Batch, known: Values, forced: int) -> float:
        answers, taught = self.teacher.answers(batch)
        inputs = batch[: self.teacher.inputs]
        found = [self.guide.run(inputs, known, taught, forced)[0]]
        found += self.nested.outputs(inputs, known)
        return sum(self.teacher.compare(batch, answers, outputs).item() for outputs in found)

    def _values(self) -> Values:
        return {node: value for one in self.trainables for node, value in one.values().items()}

    def _judge(self, state: State) -> None:
        loss = self.judged()
        state.losses.append((state.step, loss))
        if not math.isfinite(loss):
            self._roll_back(state)
        elif loss < state.best:
            state.best, state.best_step, state.stale = loss, state.step, 0
            for kept, leaf in zip(self.best, self.leaves, strict=True):
                kept.copy_(leaf.detach())
        else:
            state.stale += 1

    def _roll_back(self, state: State) -> None:
        """Go back to the best state, forget the moments, and go on at half the rate."""
        state.rollbacks += 1
        self._restore_best()
        self.optimizer.state.clear()

    def _restore_best(self) -> None:
        with torch.no_grad():
            for leaf, kept in zip(self.leaves, self.best, strict=True):
                leaf.copy_(kept)
