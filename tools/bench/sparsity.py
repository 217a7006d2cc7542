"""`make bench-sparsity`: what zeros and factors cost a language model, and when they are fast.

Perplexity of the zoo's language model with half of its weights gone in every pattern, by every
method, and with factors in place of its linears; nothing is trained. Linears of blocks of zeros
beside the same linears without zeros, compiled, in turns.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.pruning_subjects import language
from effc.backends.artifact import MANIFEST, manifest_of
from effc.backends.measure import interleaved
from effc.backends.runner import Model
from effc.backends.tvm_cpu.build import build
from effc.environment import environment
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.trace.exported import program_of
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.tables import render, table
from effc.units import time_text

RESULT, PAGE, BUILT = Path("bench/sparsity.json"), Path("docs/sparsity.md"), Path("build/sparsity")
COMMAND = "make bench-sparsity"
PATTERNS = ("unstructured", "2:4", "16x1", "16x4")
MASKS = ("random", "magnitude", "wanda", "pst", "obert", "sparsegpt")
SPREADS = ("global", "lamp", "owl")
SHARES = (0.2, 0.4)
FACTORS = {
    "low-rank of the weight": "whiten=false",
    "low-rank": "sequential=false",
    "low-rank, sequential": "",
    "low-rank, sequential, budget": "spread=budget",
    "block-shuffle, sequential": "form=block-shuffle",
}
LANES, SEED, ROUNDS, THREADS, WIDTH = 16, 0, 15, 1, 100
SHAPES = ((128, 768, 3072), (1, 768, 3072))
DENSITIES = (0.9, 0.8, 0.7, 0.5, 0.25)
KINDS = {
    "float32": (1, ""),
    "bfloat16": (2, "bfloat16,lower-half,fold-constants,"),
    "int8": (4, "quantize,lower-integer,decompose-rows,fold-constants,"),
}
FASTER = 1.02
Row = dict[str, Any]


def ways() -> Iterator[tuple[str, str, float, str]]:
    """Table, method, share and pass of everything that is judged."""
    for pattern in PATTERNS:
        ratio = "" if ":" in pattern else "ratio=0.5 "
        for method in MASKS:
            options = f"pattern={pattern} {ratio}method={method}"
            yield pattern, method, 0.5, f"sparsify-weights{{{options}}}"
            if method in ("magnitude", "wanda") and "x" not in pattern:
                text = f"sparsify-weights{{{options} refine=dsnot}}"
                yield pattern, f"{method}, dsnot", 0.5, text
    for spread in SPREADS:
        options = f"ratio=0.5 method=wanda spread={spread}"
        yield "unstructured", f"wanda, {spread}", 0.5, f"sparsify-weights{{{options}}}"
    for name, options in FACTORS.items():
        for share in SHARES:
            yield "factors", name, share, f"factorize-linears{{ratio={share} {options}}}"


def quality_rows(known: Sequence[Row]) -> Iterator[Row]:
    """Perplexity of every way that was not judged before."""
    done = {(row["table"], row["way"], row["share"]) for row in known if row["what"] == "quality"}
    subject = language()
    plan = [("whole", "", 0.0, ""), *ways()]
    for name, way, share, text in plan:
        if (name, way, share) in done:
            continue
        program, left = subject.program, 1.0
        if text:
            report = PassManager.parse(text).run(program, subject.ctx)
            program, left = report.program, left_of(subject.program, report.program)
        yield {
            "what": "quality", "table": name, "way": way, "share": share,
            "value": subject.judge(program), "left": left,
        }  # fmt: skip


def left_of(before: Program, after: Program) -> float:
    """Weights that are not zero over those there were."""

    def count(program: Program) -> int:
        unique = {(w.data_ptr(), tuple(w.shape)): w for w in program.weights().values()}
        return sum(int(torch.count_nonzero(weight)) for weight in unique.values())

    return count(after) / count(before)


def linear(features: int, columns: int, depth: int, density: float) -> torch.nn.Module:
    """A linear whose blocks, a vector of outputs by `depth` inputs, stay at random."""
    made = np.random.default_rng(SEED)
    held = made.random((columns // LANES, features // depth)) < density
    weight = made.standard_normal((columns, features)) * held.repeat(LANES, 0).repeat(depth, 1)
    module = torch.nn.Linear(features, columns, bias=False)
    module.weight.data = torch.from_numpy(weight.astype(np.float32))
    return module


def built(shape: tuple[int, int, int], kind: str, density: float) -> Path:
    """A compiled linear; with zeros it passes over them, however few there are."""
    rows, features, columns = shape
    depth, passes = KINDS[kind]
    folder = BUILT / f"{rows}-{features}-{columns}-{kind}-{density}"
    folder.mkdir(parents=True, exist_ok=True)
    module = linear(features, columns, depth, density)
    inputs = {"input": torch.zeros(rows, features)}
    program = program_of(torch.export.export(module.eval(), (), inputs, strict=False), "linear")
    blocks = "lower-blocks{densest=1}," if density < 1 else ""
    report = PassManager.parse(f"{passes}{blocks}remove-dead").run(program, PassContext())
    target = Target.parse("native")
    build(report.program, target, folder)
    manifest = manifest_of(report.program, target, folder, COMMAND)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def kernel_rows() -> Iterator[Row]:
    """Times of linears with blocks of zeros beside those without."""
    for shape in SHAPES:
        for kind in KINDS:
            folders = {density: built(shape, kind, density) for density in (1.0, *DENSITIES)}
            value = np.random.default_rng(SEED).standard_normal(shape[:2]).astype(np.float32)
            runs = {
                str(density): partial(Model(folder, THREADS).run, {"input": value})
                for density, folder in folders.items()
            }
            found = interleaved(runs, ROUNDS)
            for density in (1.0, *DENSITIES):
                yield {
                    "what": "kernel", "table": "x".join(map(str, shape)), "way": kind,
                    "share": density, "value": found[str(density)].median,
                    "left": found["1.0"].median / found[str(density)].median,
                }  # fmt: skip


def main() -> int:
    """Measure the parts named (`quality kernels`), or both; `page` only writes what there is.

    Perplexities that were measured before are kept; remove `bench/sparsity.json` to begin anew.
    """
    RESULT.parent.mkdir(exist_ok=True)
    parts = {"quality": lambda: quality_rows(stored()), "kernels": kernel_rows, "page": tuple}
    for name in sys.argv[1:] or ("quality", "kernels"):
        for row in parts[name]():
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
    same = ("what", "table", "way", "share")
    rows = [old for old in stored() if any(old[key] != row[key] for key in same)]
    record = {"environment": environment(), "rows": [*rows, row]}
    part = RESULT.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(RESULT)


def page_tables(rows: Sequence[Row]) -> list[Table]:
    """Perplexity by pattern and method, by factors and share; speed-ups by density."""
    quality = [row for row in rows if row["what"] == "quality"]
    whole = next((row["value"] for row in quality if row["table"] == "whole"), float("nan"))
    found = []
    zeros = {(r["table"], r["way"]): r["value"] for r in quality if r["table"] in PATTERNS}
    if zeros:
        title = f"perplexity with half of the weights zero, {whole:.3g} before"
        shown = table(title, "method", *PATTERNS, numbers=PATTERNS)
        for way in dict.fromkeys(way for _, way in zeros):
            shown.add_row(way, *(_cell(zeros.get((pattern, way))) for pattern in PATTERNS))
        found.append(shown)
    factors = {(r["way"], r["share"]): r["value"] for r in quality if r["table"] == "factors"}
    if factors:
        title = f"perplexity with factors for linears, {whole:.3g} before"
        columns = [f"{share:.0%} less" for share in SHARES]
        shown = table(title, "factors", *columns, numbers=columns)
        for way in dict.fromkeys(way for way, _ in factors):
            shown.add_row(way, *(_cell(factors.get((way, share))) for share in SHARES))
        found.append(shown)
    kernels = [row for row in rows if row["what"] == "kernel"]
    if kernels:
        found.append(_kernels(kernels))
    return found


def _cell(value: float | None) -> str:
    """A perplexity, where there is one."""
    return "" if value is None else f"{value:.3g}"


def _kernels(rows: Sequence[Row]) -> Table:
    columns = ["dense", *(f"{density:.0%} left" for density in DENSITIES)]
    title = f"linears with blocks of zeros, times as fast as dense, {THREADS} thread"
    shown = table(title, "rows x in x out", "type", *columns, numbers=columns)
    values = {(row["table"], row["way"], row["share"]): row for row in rows}
    for shape, kind in dict.fromkeys((row["table"], row["way"]) for row in rows):
        gains = [f"{values[shape, kind, density]['left']:.2f}x" for density in DENSITIES]
        shown.add_row(shape, kind, time_text(values[shape, kind, 1.0]["value"]), *gains)
    return shown


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    """From where blocks of zeros are faster, and which method loses least."""
    kernels = [row for row in rows if row["what"] == "kernel" and row["share"] < 1]
    for shape, kind in dict.fromkeys((row["table"], row["way"]) for row in kernels):
        own = [row for row in kernels if (row["table"], row["way"]) == (shape, kind)]
        slower = [row["share"] for row in own if row["left"] < FASTER]
        faster = [row["share"] for row in own if row["share"] < min(slower, default=2)]
        where = f"from {max(faster):.0%} left" if faster else "at no density measured"
        yield f"{shape} {kind}: faster than dense {where}"
    quality = [row for row in rows if row["what"] == "quality"]
    for pattern in PATTERNS:
        own = [row for row in quality if row["table"] == pattern]
        if own:
            best = min(own, key=lambda row: row["value"])
            yield f"{pattern}: {best['way']} loses least, perplexity {best['value']:.3g}"


def write_page(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Write `docs/sparsity.md`."""
    listing = "\n".join(f"- {line}" for line in lines)
    PAGE.write_text(
        f"# Sparsity and factors\n\n`{COMMAND}` on {environment()['cpu']}. The zoo's language "
        "model in PyTorch, perplexity on held-out text, nothing trained: `recover` goes on from "
        "here, and keeps zeros. Every linear but the last, which shares its weight with the table, "
        "loses the share. Linears of random blocks, a vector of 16 outputs by the inputs of one "
        "multiply-add step (1 in float32, 2 in bfloat16, 4 in int8), are compiled and run in "
        "turns. Zeros that are scattered, and N of M, have no faster kernel: they buy size "
        "only, since an artifact stores a bit per weight and those that are not zero. SparseGPT "
        "chooses masks for 32 columns at a time; that was chosen on this text.\n\n"
        f"```\n{render(tables, WIDTH).rstrip()}\n```\n\n{listing}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
