"""`make bench`: latency side by side in one run, with error, compile time and memory."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from bench.compiling import Compiled, compile_artifact
from bench.models import SUITE, Entry
from bench.page import speed_tables, write_section
from bench.quantized_peers import (
    onnxruntime_dynamic,
    onnxruntime_static,
    openvino_default,
    openvino_int8,
)
from effc.backends.measure import Latency, interleaved
from effc.backends.peers import Arrays, Call, peer_call
from effc.backends.runner import Model
from effc.environment import environment
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.ir.trace.factory import look_up
from effc.passes.clean.pipeline import CLEAN
from effc.passes.instruments import sqnr
from effc.passes.manager import PassManager
from effc.sample import sample_inputs, sample_sizes

THREADS = 2
ROUNDS = 20
WORK = Path("out/bench")
RESULT = Path("bench/speed.json")
MEMORY_FACTOR, MEMORY_EXTRA = 4, 1 << 30


def main() -> int:
    """Measure the suite, write the JSON and the page, and say which bars hold."""
    console = Console()
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("suite", total=len(SUITE))
        for entry in SUITE:
            progress.update(task, description=entry.name)
            say = partial(_say, progress, entry.name)
            rows += measure(entry, say)
            progress.advance(task)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    tables = speed_tables(rows, THREADS)
    for table in tables:
        console.print(table)
    write_section("speed", "make bench", tables)
    problems = list(missed(rows))
    for problem in problems:
        console.print(f"missed: {problem}")
    return 1 if problems else 0


def _say(progress: Progress, name: str, what: str) -> None:
    progress.console.print(f"  {name}: {what}")


def measure(entry: Entry, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All rows of one model."""
    model = entry.model()
    program = PassManager.parse(CLEAN).run(open_model(model)).program
    inputs = sample_inputs(program, sample_sizes(program, {}))
    builds = {name: _compiled(model, entry, name, say) for name in ("float32", "int8")}
    calls = _own_calls(builds, inputs) | _peer_calls(entry, program, inputs, say)
    say("measuring")
    latencies = interleaved(calls, ROUNDS)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    reference = next(iter(program.run(tensors).values()))
    rows = [_row(entry, name, latencies[name], calls[name](), reference) for name in calls]
    weights = program.weight_nbytes
    for name, build in builds.items():
        extra = {"weight_nbytes": weights, "note": name}
        rows.append(_plain(entry, "compile time", build.seconds, "s", extra))
        rows.append(_plain(entry, "compile peak memory", build.peak_nbytes, "B", extra))
    return rows


def _compiled(model: str, entry: Entry, name: str, say: Callable[[str], None]) -> Compiled:
    say(f"compiling {name}")
    options = ["--threads", str(THREADS), "--keep-going", "--no-resume"]
    options += ["-p", "remove-dead"] if name == "float32" else ["--calib", entry.calib]
    folder = WORK / f"{entry.name}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    return compile_artifact(model, folder, *options)


def _own_calls(builds: dict[str, Compiled], inputs: Arrays) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for name, build in builds.items():
        loaded = Model(build.folder, THREADS)
        calls[f"effc {name}"] = lambda loaded=loaded: loaded.run(inputs)
    return calls


def _peer_calls(
    entry: Entry, program: Program, inputs: Arrays, say: Callable[[str], None]
) -> dict[str, Call]:
    def data() -> Iterable[Arrays]:
        known = {spec.name for spec in program.signature.inputs}
        for batch in look_up(entry.calib)():
            first = {name: value[:1] for name, value in batch.items() if name in known}
            yield {name: _fitted(value, inputs[name].shape) for name, value in first.items()}

    makers: dict[str, Callable[[], Call]] = {
        "ONNX Runtime float32": lambda: peer_call("onnxruntime", program, inputs, THREADS),
        "ONNX Runtime int8 static": lambda: onnxruntime_static(program, inputs, THREADS, data),
        "ONNX Runtime int8 dynamic": lambda: onnxruntime_dynamic(program, inputs, THREADS, data),
        "OpenVINO float32": lambda: peer_call("openvino", program, inputs, THREADS),
        "OpenVINO default": lambda: openvino_default(program, inputs, THREADS, data),
        "OpenVINO int8": lambda: openvino_int8(program, inputs, THREADS, data),
        "PyTorch eager": lambda: peer_call("torch", program, inputs, THREADS),
    }
    calls: dict[str, Call] = {}
    for name, make in makers.items():
        say(f"preparing {name}")
        try:
            calls[name] = make()
            calls[name]()
        except Exception as error:  # a peer that cannot do it is left out, and that is said
            calls.pop(name, None)
            say(f"{name} cannot run it: {str(error).splitlines()[0][:120]}")
    return calls


def _fitted(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat or cut an array to a shape."""
    repeats = [-(-wanted // found) for wanted, found in zip(shape, value.shape, strict=True)]
    return np.ascontiguousarray(np.tile(value, repeats)[tuple(slice(size) for size in shape)])


def _row(
    entry: Entry, name: str, latency: Latency, outputs: Arrays, reference: torch.Tensor
) -> dict[str, Any]:
    found = torch.from_numpy(np.asarray(next(iter(outputs.values()))))
    is_peer = not name.startswith("effc")
    return {
        "model": entry.name,
        "what": "latency",
        "value": latency.median,
        "unit": "s",
        "better": "lower",
        "peer": name if is_peer else None,
        "variant": name,
        "low": latency.low,
        "high": latency.high,
        "runs": latency.runs,
        "sqnr_db": min(sqnr(reference, found), 200.0),
        "threads": THREADS,
    }


def _plain(
    entry: Entry, what: str, value: float, unit: str, extra: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": entry.name, "what": what, "value": value, "unit": unit, "better": "lower",
        "peer": None, **extra,
    }  # fmt: skip


def missed(rows: list[dict[str, Any]]) -> Iterable[str]:
    """The bars that do not hold, in words."""
    for entry in SUITE:
        own = [row for row in rows if row["model"] == entry.name]
        speed = {row["variant"]: row["value"] for row in own if row["what"] == "latency"}
        peer = speed.get("ONNX Runtime float32")
        if peer is not None and speed["effc float32"] > 2 * peer:
            yield f"{entry.name}: float32 is more than 2x ONNX Runtime float32"
        if peer is not None and speed["effc int8"] > peer:
            yield f"{entry.name}: int8 is slower than ONNX Runtime float32"
        for row in own:
            if row["what"] == "compile time" and row["value"] > 60:
                yield f"{entry.name}: compile takes {row['value']:.0f} s"
            allowed = MEMORY_FACTOR * row.get("weight_nbytes", 0) + MEMORY_EXTRA
            if row["what"] == "compile peak memory" and row["value"] > allowed:
                yield f"{entry.name}: compile takes {row['value'] / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())
