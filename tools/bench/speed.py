"""`make bench`: latency side by side in one run, with error, compile time and memory.

`make bench` measures every model at every batch size and number of threads;
`make bench BENCH="--headline"` measures the three models of the results page, `BENCH="--help"`
lists other choices. `BENCH="--tuned 200"` compares the default schedules of kernels with those
that 200 trials per model find. Rows of a case that is measured again replace its earlier ones.
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from bench import decode
from bench.candidates import PASSES, Subject
from bench.models import SUITE, Entry
from bench.pages import benchmark_page, speed_tables, write_section
from bench.tuning import compare_tuned
from effc.backends.measure import Latency, interleaved, timed
from effc.backends.peers import Arrays, Call
from effc.backends.tvm_cpu.peaks import Peaks, measured_peaks
from effc.environment import environment
from effc.ir.cost import program_cost
from effc.ir.program import bind_sizes
from effc.ir.target import Target
from effc.passes.instruments import sqnr

BATCHES, THREADS = (1, 8), (1, 2)
ROUNDS, LEAST_ROUNDS, ROUNDS_SECONDS = 20, 5, 60.0
RESULT = Path("bench/speed.json")
MEMORY_FACTOR, MEMORY_EXTRA = 4, 1 << 30
COMPILE_SECONDS = 60
EXACT_DB = 200.0
Row = dict[str, Any]


def main() -> int:
    """Measure, write the JSON and the pages, and say which bars hold."""
    wanted = _arguments()
    if wanted.decode:
        decode.main()
        return 0
    entries = [e for e in SUITE if not wanted.only or e.name in wanted.only]
    entries = [e for e in entries if e.is_headline] if wanted.headline else entries
    if wanted.tuned:
        return compare_tuned(entries, wanted.precision or list(PASSES), wanted.tuned)
    cases = list(itertools.product(entries, wanted.batch))
    rows = _earlier()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("suite", total=len(cases))
        for entry, batch in cases:
            name = f"{entry.name}, batch {batch}"
            progress.update(task, description=name)
            say = partial(progress.console.print, name)
            subject = Subject(entry, batch, max(wanted.threads), say)
            found = [row for t in wanted.threads for row in measure(subject, t)]
            rows = _replaced(rows, [*found, *compile_rows(subject)])
            _save(rows)
            progress.advance(task)
    _show(rows)
    if not (wanted.headline or wanted.only):
        decode.main()
    problems = list(missed(rows))
    for problem in problems:
        print(f"missed: {problem}")
    return 1 if problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--headline", action="store_true", help="the models of the results page")
    parser.add_argument("--decode", action="store_true", help="products with 4-bit weights")
    parser.add_argument("--only", action="append", help="a model's name")
    parser.add_argument("--batch", type=int, action="append", help="batch sizes")
    parser.add_argument("--threads", type=int, action="append", help="numbers of threads")
    parser.add_argument("--tuned", type=int, help="only compare default and tuned schedules")
    parser.add_argument("--precision", action="append", choices=PASSES, help="with --tuned")
    found = parser.parse_args()
    found.batch = found.batch or ([1] if found.headline else list(BATCHES))
    found.threads = found.threads or ([2] if found.headline else list(THREADS))
    return found


def measure(subject: Subject, threads: int) -> list[Row]:
    """The latency of every candidate, and what the machine's limits allow."""
    calls = subject.calls(threads)
    subject.say(f"measuring {threads} threads")
    peaks = measured_peaks(Target.parse("native"), threads)
    latencies = interleaved(calls, rounds_for(calls))
    tensors = {name: torch.from_numpy(value) for name, value in subject.inputs.items()}
    reference = next(iter(subject.program.run(tensors).values()))
    limits = limits_of(subject, peaks)
    return [
        latency_row(subject, threads, name, latencies[name])
        | {"sqnr_db": error_of(call(), reference), "limit": limits.get(_precision(name))}
        for name, call in calls.items()
    ]


def rounds_for(calls: Mapping[str, Call]) -> int:
    """As many rounds as take about a minute, within limits."""
    seconds = sum(timed(call)[1] for call in calls.values())
    return max(LEAST_ROUNDS, min(ROUNDS, round(ROUNDS_SECONDS / seconds)))


def limits_of(subject: Subject, peaks: Peaks) -> dict[str, float]:
    """The least seconds the multiply-adds of a model take, by precision."""
    program = subject.program
    sizes = bind_sizes(program.signature, program.symbols, subject.inputs)
    macs = program_cost(program).at(sizes)["macs"]
    return {precision: macs / rate for precision, rate in peaks.macs.items()}


def _precision(name: str) -> str:
    if "int8" in name:
        return "int8"
    return "bfloat16" if "bfloat16" in name or name == "OpenVINO default" else "float32"


def error_of(outputs: Arrays, reference: torch.Tensor) -> float:
    """Signal to noise of a candidate's first output, in dB."""
    found = torch.from_numpy(np.asarray(next(iter(outputs.values()))))
    return min(sqnr(reference, found), EXACT_DB)


def latency_row(subject: Subject, threads: int, name: str, latency: Latency) -> Row:
    """One row of the result."""
    return {
        "model": subject.entry.name,
        "what": "latency",
        "value": latency.median,
        "unit": "s",
        "better": "lower",
        "peer": None if name.startswith("effc") else name,
        "variant": name,
        "low": latency.low,
        "high": latency.high,
        "runs": latency.runs,
        "threads": threads,
        "batch": subject.batch,
    }


def compile_rows(subject: Subject) -> Iterable[Row]:
    """What compiling cost."""
    for name, build in subject.builds.items():
        common = {
            "model": subject.entry.name, "better": "lower", "peer": None, "note": name,
            "batch": subject.batch, "weight_nbytes": subject.program.weight_nbytes,
        }  # fmt: skip
        yield {"what": "compile time", "value": build.seconds, "unit": "s", **common}
        yield {"what": "compile peak memory", "value": build.peak_nbytes, "unit": "B", **common}


def missed(rows: list[Row]) -> Iterable[str]:
    """The bars that do not hold, in words."""
    for entry in SUITE:
        own = [row for row in rows if row["model"] == entry.name and row["batch"] == 1]
        speed = {
            r["variant"]: r["value"] for r in own if r["what"] == "latency" and r["threads"] == 2
        }
        peer = speed.get("ONNX Runtime float32")
        if peer is not None and speed["effc float32"] > 2 * peer:
            yield f"{entry.name}: float32 is more than 2x ONNX Runtime float32"
        if peer is not None and speed["effc int8"] > peer:
            yield f"{entry.name}: int8 is slower than ONNX Runtime float32"
        yield from _missed_compiling(entry, own) if entry.is_headline else ()


def _missed_compiling(entry: Entry, own: list[Row]) -> Iterable[str]:
    for row in own:
        if row["what"] == "compile time" and row["value"] > COMPILE_SECONDS:
            yield f"{entry.name}: compiling {row['note']} takes {row['value']:.0f} s"
        allowed = MEMORY_FACTOR * row.get("weight_nbytes", 0) + MEMORY_EXTRA
        if row["what"] == "compile peak memory" and row["value"] > allowed:
            yield f"{entry.name}: compiling {row['note']} takes {row['value'] / 1e9:.2f} GB"


def _earlier() -> list[Row]:
    return json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []


def _replaced(rows: list[Row], new: list[Row]) -> list[Row]:
    """Earlier rows without those of the cases that were measured again, and the new ones."""
    cases = {(row["model"], row["batch"], row.get("threads")) for row in new}
    kept = [r for r in rows if (r["model"], r.get("batch"), r.get("threads")) not in cases]
    order = [entry.name for entry in SUITE]
    return sorted([*kept, *new], key=lambda row: order.index(row["model"]))


def _save(rows: list[Row]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


def command_of(arguments: list[str]) -> str:
    """The command a page names; with one model at a time, MODEL stands for each of them."""
    named = [
        "MODEL" if before == "--only" else argument
        for before, argument in itertools.pairwise(["", *arguments])
    ]
    return f'make bench BENCH="{shlex.join(named)}"' if named else "make bench"


def _show(rows: list[Row]) -> None:
    headline = {entry.name for entry in SUITE if entry.is_headline}
    shown = [row for row in rows if row["model"] in headline and row["batch"] == 1]
    tables = speed_tables([row for row in shown if row.get("threads", 2) == 2], 2)
    console = Console(width=110, highlight=False)
    for table in tables:
        console.print(table)
    command = command_of(sys.argv[1:])
    write_section("speed", command, tables)
    benchmark_page(rows, command)


if __name__ == "__main__":
    sys.exit(main())
