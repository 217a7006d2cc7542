"""`make bench-prune`: what pruning costs in quality, beside Torch-Pruning, and the time it gains.

Classifiers of digits at equal multiply-adds; the language model with a quarter of its parameters
gone; pruning, 8 bits and both under budgets; latency of ResNet-18, whole and cut, in turns.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

import effc
from bench.pruning_front import BUDGETED, FRONT, front_rows, front_tables, front_verdicts
from bench.pruning_subjects import (
    BEFORE_RECOVERY,
    MINUTES,
    PEER,
    RECOVERED,
    Row,
    classifier,
    language,
    quality_rows,
)
from effc.artifact import Artifact
from effc.backends.measure import interleaved
from effc.environment import environment
from effc.tables import render, table

RESULT, PAGE, BUILT = Path("bench/prune.json"), Path("docs/pruning.md"), Path("build/prune")
COMMAND = "make bench-prune"
CLASSIFIERS, CUTS = ("residual_cnn", "depthwise_cnn"), (0.5, 0.75)
LANGUAGE_CUT, SPEED_CUTS = 0.25, (0.3, 0.5)
ENOUGH = 0.85
PARTS = (*CLASSIFIERS, "language_model", "resnet18", *(f"{FRONT}:{name}" for name in BUDGETED))
MAGNITUDE, WIDTH = "l2", 100


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
    """Measure the parts named (`residual_cnn`, `front:residual_cnn`, ..., `resnet18`), or all.

    What was measured before is kept, latencies apart; remove `bench/prune.json` to begin anew.
    """
    RESULT.parent.mkdir(exist_ok=True)
    for name in sys.argv[1:] or PARTS:
        for row in measured(name, stored()):
            keep(row)
            print(json.dumps(row), file=sys.stderr)
    rows = stored()
    tables = [*page_tables(rows), *front_tables(rows)]
    lines = [*verdicts(rows), *front_verdicts(rows)]
    write_page(tables, lines)
    Console(width=WIDTH, highlight=False).print(*tables, *lines, sep="\n")
    return 0


def stored() -> list[Row]:
    """The rows measured so far."""
    rows: list[Row] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    return rows


def keep(row: Row) -> None:
    """Write a row in the place of an earlier one of the same; other runs may write, too."""
    same = ("model", "what", "cut", "way", "peer")
    with RESULT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
    elif name.startswith(FRONT):
        yield from front_rows(name.partition(":")[2], BUILT)
    else:
        yield from speed_rows()


def page_tables(rows: Sequence[Row]) -> list[Table]:
    """A table per model: every way at every cut."""
    found = []
    for model in dict.fromkeys(row["model"] for row in of_cuts(rows)):
        own = [row for row in of_cuts(rows) if row["model"] == model]
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


def of_cuts(rows: Sequence[Row]) -> list[Row]:
    """The rows on quality after a cut."""
    return [row for row in rows if row["what"] in MINUTES]


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """Per model and cut what was chosen beside the best of the peer, recovery, and time gained."""
    for model, cut in dict.fromkeys((row["model"], row["cut"]) for row in of_cuts(rows)):
        own = [row for row in of_cuts(rows) if (row["model"], row["cut"]) == (model, cut)]
        if cut:
            yield _against_peer(own)
            whole = next(r["value"] for r in of_cuts(rows) if r["model"] == model and not r["cut"])
            yield from (_recovery(row, whole) for row in own if row["way"] == RECOVERED)
    for row in (row for row in rows if row["what"] == "latency"):
        gain = row["whole"] / row["value"]
        share = (1 - 1 / gain) / (1 - row["left"])
        word = "at least" if share >= ENOUGH else "less than"
        yield (
            f"{row['model']}, {1 - row['left']:.1%} of the multiply-adds cut: {gain:.2f}x faster, "
            f"{share:.0%} of the reduction, {word} {ENOUGH:.0%}"
        )


def _against_peer(own: Sequence[Row]) -> str:
    """What was chosen on unseen training data, of the ways without training."""
    plain = [row for row in own if row["way"] != RECOVERED]
    mine = min((row for row in plain if not row["peer"]), key=lambda row: row["divergence"])
    theirs = [row for row in plain if row["peer"]]
    if not theirs:
        theirs = [row for row in plain if row["way"] == MAGNITUDE]
    sign = 1 if mine["better"] == "higher" else -1
    best = max(theirs, key=lambda row: sign * row["value"])
    verdict = "beats" if sign * (mine["value"] - best["value"]) > 0 else "does not beat"
    return (
        f"{mine['model']}, {mine['cut']:.0%} cut: {mine['way']} ({_shown(mine, mine['value'])}) "
        f"{verdict} {best['peer'] or 'effc'} {best['way']} ({_shown(best, best['value'])})"
    )


def _recovery(row: Row, whole: float) -> str:
    minutes = MINUTES[row["what"]]
    change = (
        f"{100 * (row['value'] - whole):+.1f} points"
        if row["what"] == "accuracy"
        else f"{row['value'] / whole - 1:+.1%}"
    )
    return (
        f"{row['model']}, {row['cut']:.0%} cut, at most {minutes} min of recovery: "
        f"{_shown(row, row['value'])}, {change} against the whole"
    )


def write_page(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Write `docs/pruning.md`."""
    listing = "\n".join(f"- {line}" for line in lines)
    PAGE.write_text(
        f"# Pruning\n\n`{COMMAND}` on {environment()['cpu']}. A share of the multiply-adds "
        "goes (of the parameters for the language model), as effc counts them for both. `columns` "
        "and `sequential` fit layers to calibration data in closed form; nothing else is trained, "
        f"but for `{RECOVERED}`: `{BEFORE_RECOVERY}` and then the pass `recover`. Numbers are on "
        "the test split, in PyTorch; which way is compared is chosen without it, by the divergence "
        f"from the whole model on training data that no way saw. {PEER} cuts the module, which is "
        "then traced; it gets neither a repair nor fine-tuning, which its authors would add, and "
        "of its ways the one that is best on the test split counts.\n\n"
        "Under budgets (`--max-size`), `prune` is `allocate-channels{bits=float}`, `int8` is "
        "`quantize`, `prune + int8` is `allocate-channels{bits=float|8}`; sizes are those of the "
        "whole artifact, quality and latency are measured on the build, latency in turns.\n\n"
        f"```\n{render(tables, WIDTH).rstrip()}\n```\n\n{listing}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
