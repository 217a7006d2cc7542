"""W8A8 on every model of the zoo: task quality beside NNCF's and ONNX Runtime's quantization."""

import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from bench.tuned_peers import pre_processed
from effc.backends.peers import Arrays
from effc.evaluation import EagerModel
from effc.ir.data import open_data
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.metrics import Runnable, metric_of, quality
from effc.passes.base import PassContext
from effc.passes.manager import PassManager
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.tables import table

SECTION, TITLE = "eight-bits", "8-bit weights and activations"
ABOUT = (
    "All get the same program in float and the same calibration data, with own defaults (NNCF "
    "is told which models are transformers; ONNX Runtime gets scales per channel of weights). "
    "effc's results are those of its program in PyTorch, peers run in their own runtimes; torchao "
    "rounds linear layers only, so it is asked for transformers, where it is installed (the extra "
    "`torchao`: not with the others, as transformers imports it wherever it is). "
    "Perplexity is better where it is lower."
)
MODELS = ("residual_cnn", "depthwise_cnn", "vit", "language_model", "MiniLM-L6")
WHAT, FLOAT, OURS, THREADS = "quality", "float32", "effc int8", 1
TORCHAO, ALLOWED = "torchao", 0.005
IMAGE = "x:float32[batch=1..64,1,16,16]"
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A model with what judges it.

    Attributes:
        name: In the table.
        model: MODEL.
        inputs: Its symbolic inputs.
        loader: Module of the loaders `calibration` and `evaluation`.
        metric: How to judge.
        is_transformer: What NNCF is told.
    """

    name: str
    model: str
    inputs: tuple[str, ...]
    loader: str
    metric: str
    is_transformer: bool


def tasks() -> list[Task]:
    """Every model of the zoo."""
    from zoo.minilm import minilm_folder

    digits = [
        Task(
            name, f"zoo.digits:{name}", (IMAGE,), "zoo.digits", "zoo.metric:accuracy", name == "vit"
        )
        for name in ("residual_cnn", "depthwise_cnn", "vit")
    ]
    decoder = Task(
        "language_model", "zoo.language_model:language_model",
        ("input_ids:int64[batch=1..64,length=2..512]",), "zoo.language_model",
        "zoo.language_model:perplexity", True,
    )  # fmt: skip
    encoder = Task(
        "MiniLM-L6", str(minilm_folder()), (), "zoo.retrieval", "zoo.retrieval:mrr", True
    )
    return [*digits, decoder, encoder]


@dataclass
class Bench:
    """One task, opened.

    Attributes:
        task: Which.
        program: In float.
        batches: Calibration data.
    """

    task: Task
    program: Program
    batches: list[Arrays]

    @classmethod
    def of(cls, task: Task) -> "Bench":
        """Open the model and its data."""
        program = cleaned(open_model(task.model, inputs=list(task.inputs)), no_progress).program
        data = open_data(f"{task.loader}:calibration", program.signature, program.symbols)
        return cls(task, program, [dict(inputs) for inputs, _ in data])

    def judged(self, model: Runnable) -> float:
        """Task quality."""
        program = self.program
        data = open_data(f"{self.task.loader}:evaluation", program.signature, program.symbols)
        scores = quality(model, data, metric_of(self.task.metric))
        return next(iter(scores.values()))

    def models(self) -> Iterator[tuple[str, Callable[[], Runnable]]]:
        """Every candidate by name, and how to make it."""
        yield FLOAT, lambda: EagerModel(self.program)
        yield OURS, self.ours
        yield "NNCF", self.nncf
        yield "ONNX Runtime static", lambda: self.onnxruntime(is_static=True)
        yield "ONNX Runtime dynamic", lambda: self.onnxruntime(is_static=False)
        if self.task.is_transformer and importlib.util.find_spec(TORCHAO) is not None:
            yield TORCHAO, self.torchao

    def ours(self) -> Runnable:
        """The default pipeline."""
        ctx = PassContext(calibration=self.batches)
        return EagerModel(PassManager.parse("quantize").run(self.program, ctx).program)

    def export(self, path: Path) -> None:
        """Write the program as ONNX with its symbolic dimensions, by PyTorch's own exporter."""
        import torch

        signature = self.program.signature
        arguments = tuple(torch.from_numpy(self.batches[0][spec.name]) for spec in signature.inputs)
        symbols = {
            name: torch.export.Dim(name, min=max(2, symbol.minimum), max=symbol.maximum)
            for name, symbol in self.program.symbols.items()
        }
        dynamic = tuple(
            {place: symbols[str(size)] for place, size in enumerate(spec.shape)
             if str(size) in symbols}
            for spec in signature.inputs
        )  # fmt: skip
        module = torch.fx.GraphModule(self.program.forward, self.program.forward.graph)
        exported = torch.export.export(module, arguments, dynamic_shapes=dynamic)
        names = [spec.name for spec in signature.inputs], [one.name for one in signature.outputs]
        torch.onnx.export(
            exported, f=str(path), dynamo=True, input_names=names[0], output_names=names[1],
            verbose=False, external_data=False,
        )  # fmt: skip

    def nncf(self) -> Runnable:
        """NNCF's post-training quantization, with its defaults, in OpenVINO."""
        import nncf
        import openvino

        nncf.set_log_level(logging.ERROR)
        settings = {"model_type": nncf.ModelType.TRANSFORMER} if self.task.is_transformer else {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            self.export(path)
            model = nncf.quantize(
                openvino.convert_model(str(path)), nncf.Dataset(self.batches), **settings
            )
        hints = {"INFERENCE_NUM_THREADS": str(THREADS), "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(model, "CPU", hints)
        names = [spec.name for spec in self.program.signature.outputs]
        return _Shaped(lambda inputs: dict(zip(names, compiled(inputs).values(), strict=True)))

    def torchao(self) -> Runnable:
        """Int8 weights of linear layers by torchao, activations with a scale per token."""
        import torch
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        module = self._module()
        quantize_(module, Int8DynamicActivationInt8WeightConfig())
        names = [spec.name for spec in self.program.signature.outputs]

        def call(inputs: Arrays) -> Arrays:
            with torch.inference_mode():
                found = module(**{name: torch.from_numpy(one) for name, one in inputs.items()})
            outputs = [found] if isinstance(found, torch.Tensor) else list(found.values())
            return {name: one.numpy() for name, one in zip(names, outputs, strict=True)}

        return _Shaped(call)

    def _module(self) -> Any:
        """The model as its source makes it."""
        place, _, factory = self.task.model.partition(":")
        if not factory:
            from transformers import AutoModel

            return AutoModel.from_pretrained(place).eval()
        made = getattr(importlib.import_module(place), factory)()
        return (made[0] if isinstance(made, tuple) else made).eval()

    def onnxruntime(self, *, is_static: bool) -> Runnable:
        """ONNX Runtime's quantization with its defaults and a scale per channel of weights."""
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationDataReader

        batches = iter(self.batches)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> Arrays | None:
                return next(batches, None)

        with tempfile.TemporaryDirectory() as folder:
            plain, ready, packed = (Path(folder) / f"{n}.onnx" for n in ("model", "ready", "int8"))
            self.export(plain)
            logging.disable(logging.WARNING)
            pre_processed(plain, ready)
            settings = {"per_channel": True, "weight_type": QuantType.QInt8}
            if is_static:
                quantize_static(ready, packed, Reader(), **settings)
            else:
                quantize_dynamic(ready, packed, **settings)
            logging.disable(logging.NOTSET)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = THREADS
            providers = ["CPUExecutionProvider"]
            session = onnxruntime.InferenceSession(packed, options, providers=providers)
        names = [output.name for output in session.get_outputs()]
        return _Shaped(lambda inputs: dict(zip(names, session.run(None, inputs), strict=True)))


@dataclass(frozen=True)
class _Shaped:
    """A function with the interface of a loaded artifact."""

    call: Callable[[Arrays], Arrays]

    def run(self, inputs: Arrays) -> Arrays:
        """Run once."""
        return self.call({name: np.ascontiguousarray(value) for name, value in inputs.items()})


def rows_of(progress: Progress, wanted: Sequence[str]) -> Iterator[Row]:
    """A row per task and candidate; a peer that cannot run a model leaves a row without value."""
    for task in tasks():
        if wanted and task.name not in wanted:
            continue
        bench = Bench.of(task)
        made = list(bench.models())
        shown = progress.add_task(f"{task.name}: W8A8", total=len(made))
        better = metric_of(task.metric).better
        for name, make in made:
            row = {
                "section": SECTION, "model": task.name, "what": WHAT, "variant": name,
                "unit": "1", "better": better, "metric": task.metric,
                "peer": None if "effc" in name or name == FLOAT else name,
            }  # fmt: skip
            try:
                yield {**row, "value": bench.judged(make())}
            except Exception as error:  # a peer that cannot do it is said so
                if name in (FLOAT, OURS):
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
                yield {**row, "value": None, "note": reason}
            progress.advance(shown)


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """Quality of every candidate, and effc's relative loss."""
    own = list(rows)
    names = list(dict.fromkeys(row["variant"] for row in own))
    columns = [*names, "loss of effc"]
    made = table(TITLE, "model", "metric", *columns, numbers=columns)
    for model in dict.fromkeys(row["model"] for row in own):
        found = {row["variant"]: row for row in own if row["model"] == model}
        cells = [_text(found[name]["value"]) if name in found else "" for name in names]
        metric = found[FLOAT]["metric"].partition(":")[2]
        made.add_row(model, metric, *cells, f"{loss_of(found):.2%}")
    return [made]


def _text(value: float | None) -> str:
    return "cannot" if value is None else f"{value:.4f}"


def loss_of(found: dict[str, Row]) -> float:
    """The loss of effc against float32 as a share of it; negative where it gains."""
    base, ours = found[FLOAT], found[OURS]
    sign = 1 if base["better"] == "higher" else -1
    return float(sign * (base["value"] - ours["value"]) / abs(base["value"]))


def lines_of(rows: Sequence[Row]) -> Iterator[str]:
    """Per model, whether effc's loss is within what is allowed, and whether a peer is better."""
    own = list(rows)
    for model in dict.fromkeys(row["model"] for row in own):
        found = {row["variant"]: row for row in own if row["model"] == model}
        sign = 1 if found[FLOAT]["better"] == "higher" else -1
        peers = {name: row["value"] for name, row in found.items()
                 if row["peer"] and row["value"] is not None}  # fmt: skip
        best = max(peers, key=lambda name: sign * peers[name]) if peers else None
        is_within = loss_of(found) <= ALLOWED
        text = f"{model}, W8A8: effc loses {loss_of(found):.2%}"
        text += f", {'within' if is_within else 'more than'} {ALLOWED:.1%}"
        if best is not None:
            ours = sign * found[OURS]["value"]
            word = "no better" if sign * peers[best] <= ours else "better"
            text += f"; the best peer, {best} ({peers[best]:.4f}), is {word}"
        yield text
