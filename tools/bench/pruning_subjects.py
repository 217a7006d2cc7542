"""What `make bench-prune` prunes, by which ways, and how it is judged.

Which way is best is chosen by the divergence from the whole program on training data that no way
saw; the test split only says how good the choice is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from effc.evaluation import EagerModel
from effc.ir.cost import program_cost, typical_sizes
from effc.ir.data import open_data
from effc.ir.errors import BudgetError
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.bits.metrics.divergence import Divergence
from effc.passes.manager import PassManager
from effc.preparation import cleaned
from effc.progress import no_progress
from zoo import corpus, digits, images
from zoo.metric import accuracy

INPUT = "x:float32[batch=1..64,1,16,16]"
WINDOW = "input_ids:int64[batch=1..8,sequence=1..512]"
PEER = "Torch-Pruning"
WAYS = {
    "random": "importance=random",
    "l2": "importance=l2",
    "l2, columns": "importance=l2 repair=columns",
    "l2, sequential": "importance=l2 repair=sequential",
    "fisher, sequential": "importance=fisher repair=sequential",
    "wanda, sequential": "importance=wanda repair=sequential",
    "flap, sequential": "importance=flap repair=sequential",
    "fisher, plan, sequential": "importance=fisher spread=plan repair=sequential",
}
PEER_WAYS = ("random", "l2", "lamp")
RECOVERED, BEFORE_RECOVERY = "recovered", "wanda, sequential"
MINUTES = {"accuracy": 1, "perplexity": 5}
BATCHES, ROUNDS, UNSEEN = 16, 10, 256
Inputs = dict[str, Any]
Row = dict[str, Any]


@dataclass
class Subject:
    """A model of the zoo with what prunes and judges it.

    Attributes:
        name: In the zoo.
        program: After the clean passes.
        ctx: With the calibration data.
        judge: Quality of a program on the test split.
        unseen: Batches of training data beside the calibration data.
        resource: What a share of goes: `macs` or `parameters`.
        quality: What `judge` gives: `accuracy` or `perplexity`.
    """

    name: str
    program: Program
    ctx: PassContext
    judge: Callable[[Program], float]
    unseen: Sequence[Inputs]
    resource: str
    quality: str

    def cost(self, program: Program) -> float:
        """Multiply-adds or parameters of a program."""
        if self.resource == "parameters":
            return sum(tensor.numel() for tensor in unique(program))
        return program_cost(program).at(typical_sizes(self.program))["macs"]

    def pruned(self, share: float, options: str, after: str = "") -> Program:
        """The program without a share of what it costs; `after` are passes on what is left."""
        text = f"prune-channels{{of={self.resource} ratio={share} align=1 {options}}}{after}"
        return PassManager.parse(text).run(self.program, self.ctx).program

    def divergence(self, program: Program) -> float:
        """How far a program is from the whole one on unseen data."""
        compare = Divergence.of(self.program.forward)
        found = []
        for batch in self.unseen:
            outputs = [
                [torch.from_numpy(value) for value in EagerModel(one).run(batch).values()]
                for one in (self.program, program)
            ]
            found.append(float(compare(*outputs)))
        return float(np.mean(found))

    def row(self, way: str, peer: str | None, share: float, program: Program) -> Row:
        """What is left and how good it is."""
        return {
            "model": self.name, "what": self.quality, "way": way, "peer": peer, "cut": share,
            "value": self.judge(program), "unit": "1", "divergence": self.divergence(program),
            "better": "higher" if self.quality == "accuracy" else "lower",
            "left": self.cost(program) / self.cost(self.program),
        }  # fmt: skip


def unique(program: Program) -> list[torch.Tensor]:
    """Weights of a program, tied ones once."""
    return list({(w.data_ptr(), tuple(w.shape)): w for w in program.weights().values()}.values())


def classifier(name: str) -> Subject:
    """A classifier of digits and its data."""
    program = cleaned(open_model(f"zoo.digits:{name}", inputs=[INPUT]), no_progress).program
    data = open_data("zoo.digits:calibration", program.signature, program.symbols)
    ctx = PassContext(calibration=[inputs for inputs, _ in data])

    def judge(one: Program) -> float:
        model = EagerModel(one)
        return accuracy((model.run(inputs), labels) for inputs, labels in digits.evaluation())

    train, _ = images.load()
    last, size = len(train.x), digits.BATCH
    unseen = [{"x": train.x[at : at + size]} for at in range(last - UNSEEN, last, size)]
    return Subject(name, program, ctx, judge, unseen, "macs", "accuracy")


def language() -> Subject:
    """The language model and its data."""
    from zoo import language_model

    opened = open_model("zoo.language_model:language_model", inputs=[WINDOW])
    program = cleaned(opened, no_progress).program
    batches = list(language_model.calibration())[:BATCHES]

    def judge(one: Program) -> float:
        model = EagerModel(one)
        pairs = [(model.run(inputs), labels) for inputs, labels in language_model.evaluation()]
        return language_model.perplexity(pairs)

    text = corpus.split(held_out=False).text
    first, length = language_model.CALIBRATION_WINDOWS, language_model.CALIBRATION_LENGTH
    unseen = [{"input_ids": corpus.windows(text, first, language_model.BATCH, length)}]
    ctx = PassContext(calibration=batches)
    return Subject("language_model", program, ctx, judge, unseen, "parameters", "perplexity")


def torch_pruned(subject: Subject, importance: str, share: float) -> Program:
    """The same model cut by Torch-Pruning until no more multiply-adds are left than allowed.

    Raises:
        BudgetError: If it cannot cut so far.
    """
    low, high, found = 0.0, 1.0, None
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        module, left = _cut_by_peer(subject.name, importance, middle)
        if left <= 1 - share:
            high, found = middle, module
        else:
            low = middle
    if found is None:
        raise BudgetError(f"{PEER} cannot remove {share:.0%} of {subject.name}")
    return cleaned(open_model(found, inputs=[INPUT]), no_progress).program


def _cut_by_peer(name: str, importance: str, ratio: float) -> tuple[torch.nn.Module, float]:
    """A module cut by Torch-Pruning, and the share of multiply-adds it counts afterwards."""
    import torch_pruning as peer

    module, example = digits.trained(name)
    last = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    made = {
        "l2": partial(peer.importance.GroupMagnitudeImportance, p=2),
        "lamp": peer.importance.LAMPImportance,
        "random": peer.importance.RandomImportance,
    }[importance]()
    before, _ = peer.utils.count_ops_and_params(module, example[0])
    torch.manual_seed(0)
    peer.pruner.BasePruner(
        module, example[0], made, pruning_ratio=ratio, ignored_layers=last
    ).step()
    after, _ = peer.utils.count_ops_and_params(module, example[0])
    return module, after / before


def quality_rows(subject: Subject, cuts: Sequence[float], known: Sequence[Row]) -> Iterator[Row]:
    """Every way to choose at every cut, and the peer where it is asked, without what is known."""
    own = [r for r in known if (r["model"], r["what"]) == (subject.name, subject.quality)]
    done = {(row["cut"], row["way"], row["peer"]) for row in own}
    if (0.0, "whole", None) not in done:
        yield subject.row("whole", None, 0.0, subject.program)
    for share in cuts:
        for way, options in WAYS.items():
            if (share, way, None) not in done:
                yield subject.row(way, None, share, subject.pruned(share, options))
        if (share, RECOVERED, None) not in done:
            recovery = f",recover{{minutes={MINUTES[subject.quality]}}}"
            program = subject.pruned(share, WAYS[BEFORE_RECOVERY], recovery)
            yield subject.row(RECOVERED, None, share, program)
        for way in PEER_WAYS if subject.quality == "accuracy" else ():
            if (share, way, PEER) not in done:
                yield subject.row(way, PEER, share, torch_pruned(subject, way, share))
