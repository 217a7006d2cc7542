"""The pass `recover`: short training that makes up for what compression lost."""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

from effc.ir.errors import DataError, EffcError, Refusal, UsageError
from effc.ir.program import Program
from effc.ir.text import fingerprint
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.calibrate.batches import CalibrationData
from effc.passes.calibrate.store import Shelf
from effc.passes.recover.batches import Batches
from effc.passes.recover.changes import Sizes
from effc.passes.recover.checkpoint import State
from effc.passes.recover.losses import Loss, OutputLoss
from effc.passes.recover.nested import Nested
from effc.passes.recover.points import points_of
from effc.passes.recover.teacher import Teacher
from effc.passes.recover.trainables import Selection, Trainable, fold
from effc.passes.recover.training import Budget, Training
from effc.passes.recover.workers import Workers

RULE = "recover"
FOLDER = "recover"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Recover(Pass):
    """Label-free distillation from the program before compression, on the calibration data.

    Only what folds into the weights is trained, so the result has no parameter and no operator more
    than before. It learns to give the original's outputs; labels are not used. Roundings of weights
    and activations take part in training, gradients pass straight through them. An eighth of the
    data is held out; the state that is best on it wins, and where none is better than the beginning
    nothing is changed.

    Attributes:
        parameters: What is trained: `bias` and `norm` (PERP), `head`, and one of `scale-shift`
            (SSF), `lora` (masked where weights are sparse; L4Q where they are codes), `sub-block`
            (S2FT), `step` (LSQ), `rounding` (AdaRound), `full`. With one of these biases and norms
            are trained, too.
        loss: How outputs are compared: `auto` is `kl` for logits, else `mse`.
        temperature: Of distributions.
        hidden: Weight of the error at the ends of blocks.
        intervention: Part of the training in which values of the original replace those at the ends
            of blocks, at fewer and fewer places; 1 is reconstruction block by block.
        minutes: Time limit; 0 for none.
        steps: Limit of steps; 0 for none.
        rows: Rows of a batch, where rows of the data can be mixed.
        rate: Learning rate.
        rank: Of `lora`.
        share: Part of the output channels that `sub-block` trains.
        patience: Stop after this many of 20 judgements without a better loss; 0 for never.
        answers: Keep this many likelihoods per answer of the original on disk instead of running it
            in every step; 0 runs it.
        depths: Models of so many first blocks learn the same with the same weights (SoFT), so that
            `prune-blocks{importance=last}` may cut to them; the losses are added up.
    """

    name: ClassVar[str] = RULE
    parameters: tuple[str, ...] = ("full",)
    loss: Loss = "auto"
    temperature: float = 1.0
    hidden: float = 0.0
    intervention: float = 0.0
    minutes: float = 1.0
    steps: int = 0
    rows: int = 32
    rate: float = 1e-3
    rank: int = 8
    share: float = 0.1
    patience: int = 6
    answers: int = 0
    depths: tuple[int, ...] = ()

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Train the method `forward`."""
        original = self._checked(ctx)
        data = CalibrationData(program, ctx.calibration or ())
        found = Selection(
            program, original, ctx, self.parameters, Sizes(self.rank, self.share)
        ).found()
        if not found:
            what = ", ".join(self.parameters)
            return Outcome(
                False, {}, (Refusal(RULE, program.name, f"nothing to train of: {what}"),)
            )
        training = self._training(program, original, ctx, data, found)
        state = training.run()
        if state.best_step == 0:
            return Outcome(False, _notes(state, found))
        promised, before = training.judged(), _parameters(program)
        fold(program, {path: one for t in found for path, one in t.folded().items()})
        self._check_folded(program, training, promised)
        added = _parameters(program) - before
        return Outcome(True, {**_notes(state, found), "added_parameters": added})

    def _checked(self, ctx: PassContext) -> Program:
        """The program to learn from."""
        if ctx.original is None:
            raise UsageError("recover needs the program before compression; run it in a pipeline")
        if ctx.calibration is None:
            raise DataError("recover needs calibration data; give it with --calib")
        if not (self.minutes > 0 or self.steps > 0):
            raise UsageError("recover: give minutes or steps, else it never ends")
        limits = {"minutes": self.minutes, "steps": self.steps, "hidden": self.hidden}
        for name, value in {**limits, "intervention": self.intervention}.items():
            if value < 0:
                raise UsageError(f"recover: {name}={value:g} is negative")
        above = {"rate": self.rate, "rank": self.rank, "rows": self.rows, "share": self.share}
        for name, value in {**above, "temperature": self.temperature}.items():
            if value <= 0:
                raise UsageError(f"recover: {name}={value:g} must be above 0")
        return ctx.original

    def _training(
        self,
        program: Program,
        original: Program,
        ctx: PassContext,
        data: CalibrationData,
        found: list[Trainable],
    ) -> Training:
        shelf = self._shelf(program, original, ctx, data)
        wants_points = self.hidden > 0 or self.intervention > 0
        points = points_of(original, program) if wants_points else []
        if wants_points and not points:
            raise UsageError("recover: no block of the program ends as one of the original does")
        loss = OutputLoss(program.forward, self.loss, self.temperature)
        teacher = Teacher(original, loss, points, self.answers, shelf)
        batches = Batches(program, data, self.rows, teacher.columns)
        budget = Budget(
            self.minutes, self.steps, self.rate, self.hidden, self.intervention, self.patience
        )
        workers = Workers.joined()
        nested = Nested(program, self.depths)
        return Training(
            program.forward, found, teacher, batches, budget, ctx, shelf, workers, nested
        )

    def _shelf(
        self, program: Program, original: Program, ctx: PassContext, data: CalibrationData
    ) -> Shelf | None:
        if ctx.store is None:
            return None
        parts = (
            fingerprint(program),
            fingerprint(original),
            data.fingerprint(),
            str(self),
            ctx.seed,
        )
        key = " ".join(map(str, parts))
        digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
        return Shelf(ctx.store / FOLDER / digest, key)

    def _check_folded(self, program: Program, training: Training, promised: float) -> None:
        """Make sure that the folded program does what the trained one did."""
        training.trainables = []
        training.module = program.forward
        folded = training.judged()
        if abs(folded - promised) > TOLERANCE * max(abs(promised), TOLERANCE):
            raise EffcError(f"recover: the loss is {promised:.6g} in training, {folded:.6g} folded")


def _parameters(program: Program) -> int:
    return sum(weight.numel() for weight in program.weights().values())


def _notes(state: State, found: list[Trainable]) -> dict[str, Any]:
    trained = {name: one.numel() for t in found for name, one in t.tensors.items()}
    return {
        "loss_before": state.losses[0][1],
        "loss_after": state.best,
        "best_step": state.best_step,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "rollbacks": state.rollbacks,
        "trained_parameters": sum(trained.values()),
        "losses": state.losses,
    }
