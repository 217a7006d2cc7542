"""Task quality of an artifact, or of a model in PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.artifact import Artifact
from effc.backends.runner import Model
from effc.ir.data import open_data
from effc.ir.errors import UsageError
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.metrics import Metric, Runnable, Scores, quality
from effc.progress import Progress

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


@dataclass(frozen=True)
class Question:
    """What to evaluate on.

    Attributes:
        data: Inputs with labels.
        metric: How to judge.
        tokenizer: Folder of the tokenizer, for text; None for the model's own.
        progress: Called with a stage, the batches done and 0: their number is not known.
    """

    data: str
    metric: Metric
    tokenizer: str | None
    progress: Progress

    def answer(self, model: Runnable, program: Any, folder: str, reference: Any = None) -> Scores:
        """Task quality of a model with the signature and symbols of `program`."""
        tokenizer = self.tokenizer or (folder if folder and Path(folder).is_dir() else None)
        data = open_data(self.data, program.signature, program.symbols, tokenizer=tokenizer)
        return quality(
            model, data, self.metric, reference, lambda done: self.progress("evaluate", done, 0)
        )


def evaluate_model(model: str, question: Question, inputs: list[str], trust_pickle: bool) -> Scores:
    """Task quality of a model in PyTorch.

    Raises:
        UsageError: If the metric compares with a baseline, which a model itself is.
    """
    name = question.metric.name
    if question.metric.needs_reference:
        raise UsageError(f"metric {name} compares with a baseline; evaluate an artifact")
    program = open_model(model, inputs=inputs, trust_pickle=trust_pickle)
    return question.answer(EagerModel(program), program, model)


def evaluate_artifact(
    folder: str, question: Question, threads: int, bits: int = 0, depth: int = 0
) -> Scores:
    """Task quality of an artifact; metrics that compare take the model it was compiled from."""
    artifact = Artifact(folder)
    recipe, reference = artifact.recipe, None
    if question.metric.needs_reference:
        reference = EagerModel(artifact.original())
    with Model(folder, threads, bits=bits, depth=depth) as model:
        return question.answer(model, model, recipe.tokenizer or recipe.model, reference)
