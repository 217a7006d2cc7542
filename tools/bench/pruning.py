"""`make bench-prune`: what pruning costs in quality, beside Torch-Pruning, and the time it gains.

Classifiers of digits at equal multiply-adds, no training after the cut; the language model with a
quarter of its parameters gone; latency of ResNet-18 compiled, whole and cut, in turns.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import effc
from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.environment import environment
from effc.evaluation import EagerModel
from effc.ir.cost import program_cost, typical_sizes
from effc.ir.data import open_data
from effc.ir.errors import BudgetError
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.tables import render, table
from zoo import digits
from zoo.metric import accuracy

RESULT, PAGE, BUILT = Path("bench/prune.json"), Path("docs/pruning.md"), Path("build/prune")
COMMAND = "make bench-prune"
INPUT = "x:float32[batch=1..64,1,16,16]"
WINDOW = "input_ids:int64[batch=1..8,sequence=1..512]"
CLASSIFIERS, CUTS = ("residual_cnn", "depthwise_cnn"), (0.5, 0.75)
LANGUAGE_CUT, SPEED_CUTS = 0.25, (0.3, 0.5)
ENOUGH = 0.85
PEER = "Torch-Pruning"
PARTS = (*CLASSIFIERS, "language_model", "resnet18")
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
MAGNITUDE, BATCHES, WIDTH, ROUNDS = "l2", 16, 100, 10
Row = dict[str, Any]


@dataclass
class Subject:
    """A model of the zoo with what prunes and judges it.

    Attributes:
        name: In the zoo.
        program: After the clean passes.
        ctx: With the calibration data.
        judge: Quality of a program.
        resource: What a share of goes: `macs` or `parameters`.
        quality: What `judge` gives: `accuracy` or `perplexity`.
    """

    name: str
    program: Program
    ctx: PassContext
    judge: Callable[[Program], float]
    resource: str
    quality: str

    def cost(self, program: Program) -> float:
        """Multiply-adds or parameters of a program."""
        if self.resource == "parameters":
            return sum(tensor.numel() for tensor in unique(program))
        return program_cost(program).at(typical_sizes(self.program))["macs"]

    def pruned(self, share: float, options: str) -> Program:
        """The program without a share of what it costs."""
        text = f"prune-channels{{of={self.resource} ratio={share} align=1 {options}}}"
        return PassManager.parse(text).run(self.program, self.ctx).program

    def row(self, way: str, peer: str | None, share: float, program: Program) -> Row:
        """What is left and how good it is."""
        return {
            "model": self.name, "what": self.quality, "way": way, "peer": peer, "cut": share,
            "value": self.judge(program), "unit": "1",
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

    return Subject(name, program, ctx, judge, "macs", "accuracy")


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

    ctx = PassContext(calibration=batches)
    return Subject("language_model", program, ctx, judge, "parameters", "perplexity")


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
    done = {(row["cut"], row["way"], row["peer"]) for row in known if row["model"] == subject.name}
    if (0.0, "whole", None) not in done:
        yield subject.row("whole", None, 0.0, subject.program)
    for share in cuts:
        for way, options in WAYS.items():
            if (share, way, None) not in done:
                yield subject.row(way, None, share, subject.pruned(share, options))
        for way in PEER_WAYS if subject.quality == "accuracy" else ():
            if (share, way, PEER) not in done:
                yield subject.row(way, PEER, share, torch_pruned(subject, way, share))


def speed_rows() -> Iterator[Row]:
    """Latency of ResNet-18 in float32, whole and cut, batch 1; its weights are random.

    What was built before is taken as it is, so that a second run only measures.
    """
    runs, left = {}, {0.0: 1.0}
    for share in (0.0, *SPEED_CUTS):
        folder = BUILT / f"{share:g}"
        if not folder.exists():
            step = f"prune-channels{{of=macs ratio={share}}}" if share else "remove-dead"
            effc.compile("bench.models:resnet18_1", passes=step, out=folder, keep_going=True)
        artifact = Artifact(folder)
        notes = [row["notes"] for row in artifact.report["passes"]]
        for before, after in [note["macs"] for note in notes if "macs" in note]:
            left[share] = after / before
        inputs, _ = artifact.sample()
        runs[share] = partial(effc.load(folder).run, inputs)
    found = interleaved({str(share): run for share, run in runs.items()})
    for share in SPEED_CUTS:
        yield {
            "model": "resnet18", "what": "latency", "way": "l2", "peer": None, "cut": share,
            "value": found[str(share)].median, "unit": "s", "better": "lower",
            "left": left[share], "whole": found["0.0"].median,
        }  # fmt: skip


def main() -> int:
    """Measure the parts named (`residual_cnn depthwise_cnn language_model resnet18`), or all.

    Rows that were measured before are kept, latency apart; remove `bench/prune.json` to begin anew.
    """
    RESULT.parent.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PARTS:
        for row in measured(name, stored()):
            keep(row)
            print(json.dumps(row), file=sys.stderr)
    rows = stored()
    tables, lines = page_tables(rows), list(verdicts(rows))
    write_page(tables, lines)
    Console(width=WIDTH, highlight=False).print(*tables, *lines, sep="\n")
    return 0


def stored() -> list[Row]:
    """The rows measured so far."""
    rows: list[Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    return rows


def keep(row: Row) -> None:
    """Write a row in the place of an earlier one of the same."""
    same = ("model", "cut", "way", "peer")
    rows = [old for old in stored() if any(old[key] != row[key] for key in same)]
    record = {"environment": environment(), "rows": [*rows, row]}
    part = RESULT.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(RESULT)


def measured(name: str, known: Sequence[Row]) -> Iterator[Row]:
    """The rows of a part."""
    if name in CLASSIFIERS:
        yield from quality_rows(classifier(name), CUTS, known)
    elif name == "language_model":
        yield from quality_rows(language(), [LANGUAGE_CUT], known)
    else:
        yield from speed_rows()


def page_tables(rows: Sequence[Row]) -> list[Table]:
    """A table per model: every way at every cut."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows if row["what"] != "latency"):
        own = [row for row in rows if row["model"] == model]
        cuts = sorted({row["cut"] for row in own} - {0.0})
        whole = next(row["value"] for row in own if row["cut"] == 0)
        columns = [f"{cut:.0%} cut" for cut in cuts]
        title = f"{model}: {own[0]['what']} after the cut, {_shown(own[0], whole)} before"
        made = table(title, "by", "importance", *columns, numbers=columns)
        for peer, way in dict.fromkeys((row["peer"], row["way"]) for row in own if row["cut"]):
            cells = {
                row["cut"]: _shown(row, row["value"])
                for row in own
                if (row["peer"], row["way"]) == (peer, way)
            }
            made.add_row(peer or "effc", way, *[cells.get(cut, "") for cut in cuts])
        found.append(made)
    return found


def _shown(row: Row, value: float) -> str:
    return f"{value:.1%}" if row["what"] == "accuracy" else f"{value:.3g}"


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Per model and cut, the best of effc beside the best of the peer, and what time was gained."""
    for model, cut in dict.fromkeys((row["model"], row["cut"]) for row in rows if row["cut"]):
        own = [row for row in rows if (row["model"], row["cut"]) == (model, cut)]
        if own[0]["what"] == "latency":
            gain = own[0]["whole"] / own[0]["value"]
            share = (1 - 1 / gain) / (1 - own[0]["left"])
            word = "at least" if share >= ENOUGH else "less than"
            yield (
                f"{model}, {1 - own[0]['left']:.1%} of the multiply-adds cut: {gain:.2f}x faster, "
                f"{share:.0%} of the reduction, {word} {ENOUGH:.0%}"
            )
            continue
        sign = 1 if own[0]["better"] == "higher" else -1
        mine = max((row for row in own if not row["peer"]), key=lambda row: sign * row["value"])
        theirs = [row for row in own if row["peer"]]
        if not theirs:
            theirs = [row for row in own if row["way"] == MAGNITUDE]
        best = max(theirs, key=lambda row: sign * row["value"])
        verdict = "beats" if sign * (mine["value"] - best["value"]) > 0 else "does not beat"
        yield (
            f"{model}, {cut:.0%} cut: {mine['way']} ({_shown(mine, mine['value'])}) {verdict} "
            f"{best['peer'] or 'effc'} {best['way']} ({_shown(best, best['value'])})"
        )


def write_page(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Write `docs/pruning.md`."""
    listing = "\n".join(f"- {line}" for line in lines)
    PAGE.write_text(
        f"# Pruning\n\n`{COMMAND}` on {environment()['cpu']}. Nothing is trained after the cut. "
        "A share of the multiply-adds goes (of the parameters for the language model), as effc "
        f"counts them for both; {PEER} cuts the module, which is then traced. `columns` and "
        "`sequential` fit layers to calibration data in closed form. Numbers are on the test "
        "split, in PyTorch; latency is measured in turns.\n\n"
        f"```\n{render(tables, WIDTH).rstrip()}\n```\n\n{listing}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
