"""A finished artifact as Python sees it: its report, its model, its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.backends.artifact import (
    README,
    RECIPE,
    REPORT,
    SAMPLE,
    folder_nbytes,
    read_json,
    read_manifest,
)
from effc.backends.runner import Model
from effc.candidate import Candidate
from effc.ir.errors import ArtifactError
from effc.recipe import Recipe


class Artifact:
    """An artifact folder.

    Args:
        folder: Where it lies.

    Raises:
        ArtifactError: If it is incomplete or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, check=False)
        self._model: Model | None = None

    @property
    def report(self) -> "Report":
        """The record of the compile; prints as tables."""
        return Report(read_json(self.folder, REPORT))

    @property
    def size_nbytes(self) -> int:
        """Bytes of what must be shipped."""
        return folder_nbytes(self.folder)

    @property
    def model(self) -> Model:
        """The loaded model."""
        if self._model is None:
            self._model = Model(self.folder)
        return self._model

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the model; see `Model.__call__`."""
        return self.model(*arguments, **named)

    def sample(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The sample inputs and the outputs the program gave for them.

        Raises:
            ArtifactError: If the file is missing or damaged.
        """
        path = self.folder / SAMPLE
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"cannot read {path}: {error}") from error
        parts: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        for name, value in content.items():
            kind, _, label = name.partition(".")
            parts[kind == "output"][label] = value
        return parts


class Report(dict[str, Any]):
    """A report: plain data that prints as tables."""

    def __str__(self) -> str:
        from effc.tables import render, report_tables

        return render(report_tables(self))


def write_extras(
    folder: Path,
    report: dict[str, Any],
    recipe: Recipe,
    inputs: dict[str, np.ndarray],
    best: Candidate,
) -> None:
    """Write report, recipe, sample and README of an artifact."""
    (folder / REPORT).write_text(json.dumps(report, indent=1, default=str))
    (folder / RECIPE).write_text(recipe.to_yaml())
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    outputs = best.program.run(tensors)
    arrays = {f"input.{name}": value for name, value in inputs.items()}
    arrays |= {f"output.{name}": value.numpy() for name, value in outputs.items()}
    np.savez(folder / SAMPLE, **arrays)  # type: ignore[arg-type]
    (folder / README).write_text(_readme(report, best))


def _readme(report: dict[str, Any], best: Candidate) -> str:
    signature = best.program.signature
    names = ", ".join(spec.name for spec in signature.inputs)
    described = "\n".join(f"- {spec}" for spec in (*signature.inputs, *signature.outputs))
    return f"""# {report["model"]["name"]} for {report["measured_at"]["target"]}

{described}

```python
import effc
model = effc.load("{best.program.name}")  # this folder
result = model({names})
```

`effc run FOLDER` runs the sample in `{SAMPLE}` and checks it; `effc report FOLDER` shows how this
was made; `{RECIPE}` repeats it. From C: `effc.h` describes `model.so`, which needs only
`weights.safetensors`.
"""
