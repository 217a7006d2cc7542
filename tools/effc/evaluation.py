"""Task quality of an artifact, or of a model in PyTorch."""

from collections.abc import Sequence

import numpy as np
import torch

from effc.artifact import Artifact
from effc.backends.runner import Model
from effc.compiler import Progress
from effc.ir.data import open_data
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.metrics import Metric, Runnable, quality

Arrays = dict[str, np.ndarray]


class EagerModel:
    """A program in PyTorch, with the interface of a loaded artifact.

    Args:
        program: What to run.
    """

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays by name; return arrays by name."""
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self._program.run(tensors).items()}


def evaluate_model(
    model: str,
    data: str,
    metric: Metric,
    tokenizer: str | None,
    inputs: Sequence[str],
    trust_pickle: bool,
    progress: Progress,
) -> float:
    """Task quality of a model in PyTorch.

    Raises:
        UsageError: If the metric compares with a baseline, which a model itself is.
    """
    if metric.needs_reference:
        raise UsageError(f"metric {metric.name} compares with a baseline; evaluate an artifact")
    program = open_model(model, inputs=inputs, trust_pickle=trust_pickle)
    opened = open_data(data, program.signature, program.symbols, tokenizer=tokenizer or model)
    count = sum(1 for _ in opened)
    return quality(
        EagerModel(program), opened, metric, None, lambda n: progress("evaluate", n, count)
    )


def evaluate_artifact(
    folder: str,
    data: str,
    metric: Metric,
    tokenizer: str | None,
    threads: int,
    progress: Progress,
) -> float:
    """Task quality of an artifact; metrics that compare take the model it was compiled from."""
    recipe = Artifact(folder).report["recipe"]
    model = Model(folder, threads)
    tokenizer = tokenizer or recipe["tokenizer"] or recipe["model"]
    opened = open_data(data, model.signature, model.manifest.ranges, tokenizer=tokenizer)
    reference: Runnable | None = None
    if metric.needs_reference:
        reference = EagerModel(
            open_model(
                recipe["model"], inputs=recipe["inputs"], trust_pickle=recipe["trust_pickle"]
            )
        )
    count = sum(1 for _ in opened)
    return quality(model, opened, metric, reference, lambda n: progress("evaluate", n, count))
