"""Low-bit weights beside ONNX Runtime's MatMulNBits: a stack of linears, and the zoo's decoder.

`make bench BENCH=--decode`. All candidates of a case hold the same codes and take turns.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.decoder import decoder_step
from bench.pages import BENCHMARKS, write_section
from effc.backends.artifact import MANIFEST, manifest_of
from effc.backends.measure import Latency, interleaved
from effc.backends.peers import ONNX, Arrays, Call, export_onnx, onnx_session
from effc.backends.runner import Model
from effc.backends.tvm_cpu.build import build
from effc.backends.tvm_cpu.peaks import Peaks, measured_peaks
from effc.environment import environment
from effc.ir.encoding import pack_codes
from effc.ir.program import Program
from effc.ir.target import Target
from effc.ir.trace.exported import program_of
from effc.passes.base import PassContext
from effc.passes.clean.pipeline import CLEAN
from effc.passes.instruments import sqnr
from effc.passes.manager import PassManager
from effc.tables import table
from effc.units import time_text

RESULT = Path("bench/decode.json")
LAYERS, WIDTH, BITS, GROUP, THREADS, ROUNDS = 12, 4096, 4, 32, 2, 9
ROWS, CHECKED = (1, 8, 64, 256), 8
EXPECTED = "expected.npz"
STACK, DECODER = f"{LAYERS} x linear {WIDTH}", "decoder step, 255 tokens before it"
PEER = "ONNX Runtime MatMulNBits"
Row = dict[str, Any]


class Stack(nn.Module):
    """Linears with random 4-bit codes whose outputs are about as large as their inputs."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        spread = (WIDTH * ((1 << BITS) ** 2 - 1) / 12) ** 0.5
        for layer in range(LAYERS):
            drawn = torch.randint(0, 1 << BITS, (WIDTH, WIDTH), generator=generator)
            scale = (0.5 + torch.rand(WIDTH, WIDTH // GROUP, generator=generator)) / spread
            self.register_buffer(f"codes_{layer}", pack_codes(drawn, BITS))
            self.register_buffer(f"scale_{layer}", scale.to(torch.bfloat16))

    def weight(self, layer: int) -> Tensor:
        """The dequantized weight of a layer."""
        codes, scale = (getattr(self, f"{name}_{layer}") for name in ("codes", "scale"))
        return torch.ops.effc.dequantize_grouped(codes, scale, None, BITS, GROUP, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with every weight in turn; int8 activations."""
        for layer in range(LAYERS):
            codes, scale = torch.ops.effc.quantize_symmetric(x, [-1], 127, torch.int8)
            values = torch.ops.effc.dequantize(codes, scale, None)
            x = nn.functional.linear(values, self.weight(layer))
        return x

    def exact(self, x: Tensor) -> Tensor:
        """The same with float32 activations."""
        for layer in range(LAYERS):
            x = nn.functional.linear(x, self.weight(layer))
        return x


def main() -> None:
    """Build, measure, write the JSON and the section of the page."""
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        prepare(folder)
        report([*stack_rows(folder), *decoder_rows(folder)])


def report(measured_rows: list[Row]) -> None:
    """Write what was measured; rows of a case that is measured again replace its earlier ones."""
    cases = {(row["model"], row["batch"]) for row in measured_rows}
    earlier = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    kept = [row for row in earlier if (row["model"], row["batch"]) not in cases]
    rows = sorted([*kept, *measured_rows], key=lambda row: (row["model"] == DECODER, row["batch"]))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    tables = [decode_table(rows)]
    Console(width=120, highlight=False).print(tables[0])
    write_section("decode", "make bench BENCH=--decode", tables, BENCHMARKS)


def prepare(folder: Path) -> None:
    """Build everything that will be measured."""
    module = Stack()
    x = stack_input(CHECKED)
    np.savez(folder / EXPECTED, expected=module.exact(x).numpy())
    write_stack_peer(module, folder / "stack.onnx")
    written(stack_program(module, None), folder / "every")
    for count in ROWS:
        written(stack_program(module, count), folder / f"rows-{count}")
    program, inputs = decoder_step()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    text = f"{CLEAN},quantize-weights{{bits={BITS} group={GROUP}}}"
    for name, passes in (("low", text), ("clean", CLEAN)):
        written(PassManager.parse(passes).run(program, PassContext()).program, folder / name)
    write_decoder_peer(program, arrays, folder)


def stack_rows(folder: Path) -> Iterator[Row]:
    """The stack at several numbers of rows: one artifact for each, and one for all."""
    expected = torch.from_numpy(np.load(folder / EXPECTED)["expected"])
    peer, every = session_of(folder / "stack.onnx"), Model(folder / "every", THREADS)
    nbytes = {bits: WIDTH**2 * (BITS + bits / GROUP) / 8 * LAYERS for bits in (16, 32)}
    for count in ROWS:
        x = {"x": stack_input(count).numpy()}
        calls: dict[str, Call] = {
            "effc": partial(Model(folder / f"rows-{count}", THREADS).run, x),
            "effc, any rows": partial(every.run, x),
            PEER: partial(peer, x),
        }
        sizes = {name: nbytes[32 if name == PEER else 16] for name in calls}
        yield from measured(STACK, count, calls, expected[:count], sizes)


def stack_input(count: int) -> Tensor:
    """Rows of random numbers; the first ones are the same for every number."""
    return torch.randn(max(ROWS), WIDTH, generator=torch.Generator().manual_seed(0))[:count]


def measured(
    model: str, count: int, calls: dict[str, Call], expected: Tensor, nbytes: dict[str, float]
) -> Iterator[Row]:
    """Time candidates against each other, with the limits of the machine in the same run."""
    before = measured_peaks(Target.parse("native"), THREADS)
    latencies = interleaved(calls, ROUNDS)
    peaks = best_of(before, measured_peaks(Target.parse("native"), THREADS))
    macs = count * LAYERS * WIDTH**2 if model == STACK else 0
    for name, latency in latencies.items():
        found = torch.from_numpy(np.asarray(next(iter(calls[name]().values()))))[: len(expected)]
        limit = max(macs / peaks.macs["int8"], nbytes.get(name, 0) / peaks.reading)
        yield latency_row(model, name, count, latency) | {
            "sqnr_db": sqnr(expected[: len(found)], found),
            "read_nbytes_per_second": nbytes[name] / latency.median if name in nbytes else None,
            "reading_limit": peaks.reading,
            "macs_per_second": macs / latency.median,
            "limit": limit,
        }


def best_of(*found: Peaks) -> Peaks:
    """The highest limits of several measurements."""
    macs = {name: max(one.macs[name] for one in found) for name in found[0].macs}
    return Peaks(macs, max(one.reading for one in found))


def latency_row(model: str, name: str, count: int, latency: Latency) -> Row:
    """One row of the result."""
    return {
        "model": model, "what": "latency", "value": latency.median, "unit": "s",
        "better": "lower", "peer": None if name.startswith("effc") else name, "variant": name,
        "low": latency.low, "high": latency.high, "runs": latency.runs, "threads": THREADS,
        "batch": count,
    }  # fmt: skip


def stack_program(module: Stack, count: int | None) -> Program:
    """The stack on a number of rows, or on any from 1 to 256."""
    x = torch.randn(count or 9, WIDTH)
    rows = torch.export.Dim("rows", min=1, max=max(ROWS))
    shapes = None if count else {"x": {0: rows}}
    exported = torch.export.export(module, (), {"x": x}, dynamic_shapes=shapes, strict=False)
    return program_of(exported, "stack")


def written(program: Program, folder: Path) -> None:
    """Build a program for this machine."""
    folder.mkdir()
    target = Target.parse("native")
    build(program, target, folder)
    (folder / MANIFEST).write_text(manifest_of(program, target, folder, "bench").model_dump_json())


def write_stack_peer(module: Stack, path: Path) -> None:
    """The stack's codes in ONNX Runtime's operator, at its accuracy level 4 (int8 activations)."""
    import onnx
    from onnx import helper, numpy_helper

    nodes, weights, value = [], [], "x"
    settings = {"K": WIDTH, "N": WIDTH, "bits": BITS, "block_size": GROUP, "accuracy_level": 4}
    for layer in range(LAYERS):
        codes = getattr(module, f"codes_{layer}").numpy().reshape(WIDTH, -1, GROUP * BITS // 8)
        scale = getattr(module, f"scale_{layer}").float().numpy().reshape(-1)
        names = [f"codes_{layer}", f"scale_{layer}"]
        pairs = zip((codes, scale), names, strict=True)
        weights += [numpy_helper.from_array(array, name) for array, name in pairs]
        result, operands = f"y_{layer}", [value, *names]
        nodes.append(helper.make_node("MatMulNBits", operands, [result],
                                      domain="com.microsoft", **settings))  # fmt: skip
        value = result
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", WIDTH])
        for name in ("x", value)
    ]
    graph = helper.make_graph(nodes, "stack", [ends[0]], [ends[1]], weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def write_decoder_peer(program: Program, arrays: Arrays, folder: Path) -> None:
    """The decoder step with its weights rounded by ONNX Runtime."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    plain = folder / "float.onnx"
    export_onnx(program, arrays, plain)
    settings = {"block_size": GROUP, "is_symmetric": True, "accuracy_level": 4}
    peer = MatMulNBitsQuantizer(onnx.load(plain), **settings)
    peer.process()
    peer.model.save_model_to_file(str(folder / ONNX))


def session_of(path: Path) -> Callable[[Arrays], Arrays]:
    """Run an ONNX file on arrays by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in found.get_outputs()]
    return lambda arrays: dict(zip(names, found.run(None, arrays), strict=True))


def decoder_rows(folder: Path) -> Iterator[Row]:
    """One step of the zoo's decoder with keys and values of the tokens before it."""
    program, inputs = decoder_step()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    expected = next(iter(program.run(inputs).values()))
    calls: dict[str, Call] = {
        "effc": partial(Model(folder / "low", THREADS).run, arrays),
        "effc float32": partial(Model(folder / "clean", THREADS).run, arrays),
        PEER: onnx_session(folder / ONNX, arrays, THREADS),
    }
    yield from measured(DECODER, 1, calls, expected, {})


def decode_table(rows: list[Row]) -> Table:
    """Every candidate with its rates; the ratio is the peer's time over it."""
    columns = ("rows", "candidate", "median", "10% - 90%", "rate", "of limit", "SQNR", "ratio")
    found = table("4-bit weights, groups of 32, 2 threads", "model", *columns,
                  numbers=set(columns) - {"candidate"})  # fmt: skip
    for row in rows:
        case = [r for r in rows if (r["model"], r["batch"]) == (row["model"], row["batch"])]
        peer = next(r["value"] for r in case if r["peer"])
        found.add_row(
            row["model"], str(row["batch"]), row["variant"], time_text(row["value"]),
            f"{time_text(row['low'])} - {time_text(row['high'])}", rate_text(row),
            f"{row['limit'] / row['value']:.0%}" if row["limit"] else "",
            f"{row['sqnr_db']:.1f} dB", f"{peer / row['value']:.2f}",
        )  # fmt: skip
    return found


def rate_text(row: Row) -> str:
    """Bytes per second where weights are only streamed, else operations; tokens of a decoder."""
    if row["model"] == DECODER:
        return f"{1 / row['value']:.0f} tokens/s"
    if row["batch"] == 1:
        return f"{row['read_nbytes_per_second'] / 1e9:.1f} GB/s"
    return f"{2 * row['macs_per_second'] / 1e9:.0f} GFLOP/s"


if __name__ == "__main__":
    main()
