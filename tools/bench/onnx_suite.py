"""`make onnx-suite`: the official ONNX backend tests, in PyTorch and compiled.

Every test runs in a worker process with a time limit, so that a crash or a hang is a result and not
the end. Results of earlier runs are reused with `--resume`.
"""

import json
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.onnx_cases import Case, cases, excluded, is_narrowed, model_of

MODES = ("eager", "native")
LIMIT_SECONDS = 300
PATIENCE = 4  # how many times longer a test may take on a busy machine
WORK = Path("out/onnx-suite")
WARM = "test_add"


@dataclass(frozen=True)
class Result:
    """What became of one test.

    Attributes:
        name: The test.
        mode: `eager` or what it was compiled for.
        state: `passed`, `specialised` (passed with some inputs built in), `wrong`, `unsupported`,
            `error`, `crash` or `hang`.
        note: The message, or the names of the inputs that were built in.
    """

    name: str
    mode: str
    state: str
    note: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether the outputs were right."""
        return self.state in ("passed", "specialised")


def run_case(case: Case, mode: str) -> Result:
    """Run one test with the suite's own data and tolerances."""
    from onnx.backend.test.runner import Runner

    from effc.ir.errors import EffcError, InputError, ModelError, UnsupportedError
    from effc.onnx_backend import EffcBackend

    built_in: set[str] = set()
    try:
        rep = EffcBackend.prepare(model_of(case), "CPU", target=mode)
        for inputs, expected in data_of(case):
            outputs = rep.run(inputs)
            Runner.assert_similar_outputs(expected, outputs, case.test.rtol, case.test.atol)
        built_in = {name for one in rep.translations for name in one.values}
    except AssertionError as error:
        return Result(case.name, mode, "wrong", _line(error))
    except (UnsupportedError, ModelError, InputError) as error:
        return Result(case.name, mode, "unsupported", _line(error))
    except EffcError as error:
        return Result(case.name, mode, "error", _line(error))
    except Exception as error:  # a traceback is a finding, whatever its type
        return Result(case.name, mode, "error", f"{type(error).__name__}: {_line(error)}")
    if built_in:
        return Result(case.name, mode, "specialised", ", ".join(sorted(built_in)))
    return Result(case.name, mode, "passed")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]


def data_of(case: Case) -> Iterable[tuple[list[Any], list[Any]]]:
    """Pairs of inputs and outputs."""
    if case.test.data_sets is not None:
        return [
            (inputs, [array_of(one) for one in wanted]) for inputs, wanted in case.test.data_sets
        ]
    if case.kind == "real":
        return _light_data(case)
    return _stored_data(case)


def array_of(value: Any) -> Any:
    """The array in a TensorProto; anything else as it is."""
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _light_data(case: Case) -> list[tuple[list[Any], list[Any]]]:
    """One input that counts from 0 to 1, and the output stored beside the model."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = model_of(case)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in weights:
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    path = Path(onnx.__file__).parent.parent / case.test.url.replace(".onnx", "_output_0.pb")
    stored = onnx.TensorProto()
    stored.ParseFromString(path.read_bytes())
    return [(inputs, [numpy_helper.to_array(stored)])]


def _stored_data(case: Case) -> list[tuple[list[Any], list[Any]]]:
    import onnx
    from onnx import numpy_helper

    model, pairs = model_of(case), []
    types = [model.graph.input, model.graph.output]
    for folder in sorted(Path(case.test.model_dir).glob("test_data_set_*")):
        parts = []
        for kind, values in zip(("input", "output"), types, strict=True):
            arrays = []
            for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
                tensor = onnx.TensorProto()
                tensor.ParseFromString((folder / f"{kind}_{number}.pb").read_bytes())
                arrays.append(numpy_helper.to_array(tensor))
            parts.append(arrays[: len(values)])
        pairs.append((parts[0], parts[1]))
    return pairs


def _work(names: Sequence[str], mode: str, connection: Any) -> None:
    """Run tests one after the other, and send each result."""
    import torch

    torch.set_num_threads(1)
    for name in list(names):
        connection.send(run_case(cases()[name], mode))
    connection.close()


def run_all(
    names: Sequence[str], mode: str, report: Callable[[Result], None], workers: int
) -> None:
    """Run tests in worker processes; one that dies or hangs is replaced.

    Args:
        names: The tests.
        mode: `eager`, or what to compile for.
        report: Called with each result.
        workers: How many processes.
    """
    import effc.onnx_backend  # noqa: F401  (so that workers need not load it again)

    run_case(cases()[WARM], "eager")
    parts = [list(names[place::workers]) for place in range(workers)]
    threads = [threading.Thread(target=_supervise, args=(p, mode, report)) for p in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _supervise(names: list[str], mode: str, report: Callable[[Result], None]) -> None:
    """Run tests in one process at a time; after a crash or a hang, in a new one."""
    context = mp.get_context("fork")  # the tests take long to load
    while names:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(names, mode, sender))
        worker.start()
        sender.close()
        failure = _collected(receiver, worker, names, mode, report)
        if failure is not None:
            if worker.is_alive() and worker.pid:
                os.kill(worker.pid, signal.SIGKILL)
            report(failure)
            names.remove(failure.name)
        worker.join()


def _collected(
    receiver: Any, worker: Any, names: list[str], mode: str, report: Callable[[Result], None]
) -> Result | None:
    """Take results out of `names` as they come; the failure that ended the worker, if one did."""
    while names:
        if not _answers(receiver, worker):
            return Result(names[0], mode, "hang", f"more than {LIMIT_SECONDS} s")
        try:
            result = receiver.recv()
        except EOFError:
            worker.join()
            return Result(names[0], mode, "crash", f"exit {worker.exitcode}")
        report(result)
        names.remove(result.name)
    return None


def _answers(receiver: Any, worker: Any) -> bool:
    """Whether a result comes before the worker used up its time, or nothing happens for long."""
    begin, waited = _used_seconds(worker.pid), time.monotonic()
    while not receiver.poll(1):
        if _used_seconds(worker.pid) - begin > LIMIT_SECONDS:
            return False
        if time.monotonic() - waited > PATIENCE * LIMIT_SECONDS:
            return False
    return True


def _used_seconds(pid: int) -> float:
    """Processor time of a process and of those it has waited for; 0 where nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str]) -> int:
    """Run the suite and write its table."""
    from bench.onnx_table import write_table

    options = _options(arguments)
    WORK.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for mode in MODES:
        is_run = mode in options["modes"] and not options["table"]
        found = _run_mode(mode, options) if is_run else _known(_file(mode))
        results += found.values()
    if options["only"] == "":
        write_table(results)
    return 0


def _file(mode: str) -> Path:
    return WORK / f"{mode}.jsonl"


def _run_mode(mode: str, options: dict[str, Any]) -> dict[str, Result]:
    """Run what is not known yet; every result by test."""
    file = _file(mode)
    known = _known(file) if options["resume"] else {}
    found = {name: row for name, row in known.items() if row.state not in options["again"]}
    names = [name for name in cases() if name not in found and options["only"] in name]
    names.sort(key=lambda name: bool(excluded(cases()[name]) or is_narrowed(cases()[name])))
    started = time.perf_counter()
    is_whole = not options["resume"] and options["only"] == ""
    with file.open("w" if is_whole else "a") as stream:

        def keep(result: Result) -> None:
            found[result.name] = result
            stream.write(json.dumps(asdict(result)) + "\n")
            stream.flush()
            if not result.is_passed:
                print(result.mode, result.name, result.state, result.note, file=sys.stderr)

        run_all(names, mode, keep, options["workers"])
    seconds = time.perf_counter() - started
    print(f"{mode}: {len(names)} tests in {seconds:.0f} s", file=sys.stderr)
    return found


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    import argparse

    parser = argparse.ArgumentParser(prog="make onnx-suite")
    parser.add_argument("--mode", dest="modes", action="append", choices=MODES)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true", help="run nothing, write what is known")
    parser.add_argument("--again", action="append", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=2)
    found = vars(parser.parse_args(list(arguments)))
    found["modes"] = found["modes"] or list(MODES)
    return found


def _known(file: Path) -> dict[str, Result]:
    """Earlier results; the last of each test counts."""
    if not file.exists():
        return {}
    rows = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return {row.name: row for row in rows}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
