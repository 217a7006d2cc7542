"""A finished artifact as Python sees it: its report, its model, its files."""

import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from effc.backends.artifact import (
    MANIFEST,
    PROGRAM,
    README,
    RECIPE,
    REPORT,
    SAMPLE,
    write_manifest,
)
from effc.backends.reading import folder_nbytes, read_manifest, read_record
from effc.backends.runner import Model
from effc.candidate import Candidate
from effc.documents import json_text
from effc.ir.errors import ArtifactError, ModelError, NotAvailableError, UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.recipe import Recipe, make_recipe

Arrays = dict[str, np.ndarray]


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
        return Report(json.loads(read_record(self.folder, self.manifest, REPORT)))

    @property
    def recipe(self) -> Recipe:
        """What the compile was asked to do."""
        return make_recipe(self.report["recipe"])

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

    def __repr__(self) -> str:
        return f"<effc.Artifact {self.manifest.name} in {self.folder}>"

    def sample(self) -> tuple[Arrays, Arrays]:
        """The sample inputs and the outputs the program gave for them.

        Raises:
            ArtifactError: If the file is missing or damaged.
        """
        content = io.BytesIO(read_record(self.folder, self.manifest, SAMPLE))
        parts: tuple[Arrays, Arrays] = ({}, {})
        try:
            with np.load(content, allow_pickle=False) as arrays:
                for label in arrays.files:
                    kind, _, name = label.partition(".")
                    parts[kind == "output"][name] = arrays[label]
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ArtifactError(f"cannot read {self.folder / SAMPLE}: {error}") from error
        return parts

    def program(self) -> Program:
        """The compiled program, as the passes left it.

        Raises:
            ArtifactError: If the artifact does not hold it, or it is damaged.
        """
        read_record(self.folder, self.manifest, PROGRAM)
        return open_model(self.folder / PROGRAM)

    def original(self, model: str | None = None, inputs: list[str] | None = None) -> Program:
        """The model the artifact was compiled from, or another one read as that was.

        Args:
            model: Where to find it; None for what the recipe names.
            inputs: Descriptions of its inputs; None for the recipe's.

        Raises:
            UsageError: If it was compiled from an object in memory and `model` is None.
        """
        recipe = self.recipe
        source = model or recipe.model
        if not source:
            raise UsageError(
                f"{self.folder} was compiled from an object in memory; name the MODEL to compare "
                "with"
            )
        return open_model(source, inputs=inputs or recipe.inputs, trust_pickle=recipe.trust_pickle)


class Report(dict[str, Any]):
    """A report: plain data that prints as tables."""

    def __str__(self) -> str:
        from effc.tables import render, report_tables

        return render(report_tables(self))


def write_artifact(
    folder: Path, report: dict[str, Any], recipe: Recipe, inputs: Arrays, best: Candidate
) -> None:
    """Move a build to its folder and write report, recipe, sample, program and README beside it."""
    for path in best.folder.iterdir():
        shutil.move(path, folder / path.name)
    _write_program(folder, best.program, report["notes"])
    (folder / REPORT).write_text(json_text(report) + "\n")
    (folder / RECIPE).write_text(recipe.to_yaml())
    arrays = {f"input.{name}": value for name, value in inputs.items()}
    arrays |= {f"output.{name}": value for name, value in best.outputs.items()}
    sample = io.BytesIO()
    np.savez(sample, **arrays)  # type: ignore[arg-type]
    (folder / SAMPLE).write_bytes(sample.getvalue())
    (folder / README).write_text(_readme(report, best))
    write_manifest(best.manifest.with_records(folder), folder)


def _write_program(folder: Path, program: Program, notes: list[str]) -> None:
    """Keep the program, so that kernels can be tuned later and elsewhere, without the model."""
    try:
        save_program(program, folder / PROGRAM)
    except (ModelError, NotAvailableError) as error:
        notes.append(f"the artifact holds no program, so `effc tune` cannot change it: {error}")


def _readme(report: dict[str, Any], best: Candidate) -> str:
    signature = best.program.signature
    names = ", ".join(spec.name for spec in signature.inputs)
    inputs = "\n".join(f"- input `{spec}`" for spec in signature.inputs)
    outputs = "\n".join(f"- output `{spec}`" for spec in signature.outputs)
    ranges = "".join(f"\n- dimension `{symbol}`" for symbol in best.program.symbols.values())
    return f"""# {report["model"]["name"]} for {report["measured_at"]["target"]}

{inputs}
{outputs}{ranges}

```python
import effc

model = effc.load("this/folder")
result = model({names})  # numpy arrays or torch tensors
```

- `effc run this/folder` runs the sample in `{SAMPLE}` and checks it.
- `effc report this/folder` shows how this was made and how fast it is; `{RECIPE}` repeats it.
- `effc tune this/folder` makes it faster on the machine it runs on; `{PROGRAM}` is for that.
- `{MANIFEST}` lists the files that must be shipped; none of them is a pickle.
"""
