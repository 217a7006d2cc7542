"""One built form of a program: its folder, its loaded model, and what was measured of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.backends.agreement import agreement
from effc.backends.artifact import Manifest, manifest_of, write_manifest
from effc.backends.base import Built, backend_of
from effc.backends.measure import Latency, Start, timed
from effc.backends.reading import folder_nbytes
from effc.backends.runner import Model
from effc.codegen.schedule import Chosen, nothing_chosen
from effc.ir.errors import MismatchError
from effc.ir.program import Program
from effc.ir.target import Target
from effc.metrics import Scores
from effc.version import __version__

FLOAT_DB = 60.0
MARGIN_DB = 6.0
Arrays = dict[str, np.ndarray]


@dataclass
class Candidate:
    """A program built into a folder.

    Attributes:
        name: What to call it in messages and tables.
        program: What was built.
        folder: Where it lies.
        manifest: Its description.
        model: The loaded build.
        built: The backend's notes.
        passes: Report rows of the passes that made the program.
        outputs: What the program computes for the sample inputs.
        check: Per output, how close the build is to the program.
        scores: Task quality by name, once evaluated; budgets look at the first.
        latency: Once measured.
        start: Seconds until the first result, once measured.
    """

    name: str
    program: Program
    folder: Path
    manifest: Manifest
    model: Model
    built: Built
    passes: list[dict[str, Any]] = field(default_factory=list)
    outputs: Arrays = field(default_factory=dict)
    check: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    latency: Latency | None = None
    start: Start | None = None

    @property
    def quality(self) -> float | None:
        """What budgets look at; None if it was not evaluated."""
        return next(iter(self.scores.values()), None)

    @property
    def size_nbytes(self) -> int:
        """Bytes of what must be shipped."""
        return folder_nbytes(self.folder)

    @property
    def is_changed(self) -> bool:
        """Whether the passes changed anything."""
        return any(row["changed"] for row in self.passes)

    @property
    def tuned_kernels(self) -> list[dict[str, Any]]:
        """Notes of the steps that run with a chosen schedule."""
        return [note for note in self.built.kernels if note.get("schedule")]

    def to_json(self) -> dict[str, Any]:
        """What the report keeps."""
        return {
            "size_nbytes": self.size_nbytes,
            "memory_nbytes": self.model.memory_nbytes,
            "quality": self.quality,
            "scores": self.scores,
            "latency": self.latency.to_json() if self.latency else None,
            "start": self.start.to_json() if self.start else None,
            "check": self.check,
        }


def build_candidate(
    name: str,
    program: Program,
    target: Target,
    folder: Path,
    passes: list[dict[str, Any]],
    chosen: Chosen = nothing_chosen,
) -> Candidate:
    """Build a program into an existing folder and load it.

    Args:
        name: What to call it.
        program: What to build.
        target: What for.
        folder: Where; must exist.
        passes: Report rows of the passes that made the program.
        chosen: Schedules of its kernels.

    Raises:
        UnsupportedError: Listing every operator the backend has no kernel for.
        BuildError: If the build fails.
    """
    backend = backend_of(target.backend)
    built = backend.build(program, target, folder, chosen)
    manifest = manifest_of(program, target, folder, __version__)
    write_manifest(manifest, folder)
    model = Model(folder, threads=target.cores, check=False)
    return Candidate(name, program, folder, manifest, model, built, passes)


def start_of(candidate: Candidate, inputs: Arrays) -> Start:
    """Load a candidate anew, as a user does, and run it once."""
    threads = candidate.manifest.threads
    opened, load = timed(lambda: Model(candidate.folder, threads))
    with opened as model:
        return Start(load, timed(lambda: model.run(inputs))[1])


def check_outputs(candidate: Candidate, inputs: Arrays, original: Program | None) -> None:
    """Compare a build with its program, and record how close it is.

    Float programs must agree to 60 dB. In quantized ones a difference in the last bit can move a
    value to the next code and grow from there, so the error may be as large as what quantization
    itself made of the original program, and 6 dB more.

    Args:
        candidate: What to check.
        inputs: Sample inputs.
        original: The program before compression, or None if nothing was compressed.

    Raises:
        MismatchError: Naming the output and how far off it is.
    """
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    expected = candidate.program.run(tensors)
    candidate.outputs = {name: value.numpy() for name, value in expected.items()}
    floors = dict.fromkeys(expected, FLOAT_DB)
    if original is not None:
        for name, value in original.run(tensors).items():
            kept = agreement(value.numpy(), candidate.outputs[name])
            floors[name] = min(FLOAT_DB, kept - MARGIN_DB)
    check_agreement(candidate, inputs, floors)


def check_agreement(candidate: Candidate, inputs: Arrays, floors: dict[str, float]) -> None:
    """Compare a build with the outputs of its program, and record how close it is.

    Args:
        candidate: What to check; its `outputs` are known.
        inputs: Sample inputs.
        floors: By output, the least signal to noise in dB.

    Raises:
        MismatchError: Naming the output and how far off it is.
    """
    found = candidate.model.run(inputs)
    for name, value in candidate.outputs.items():
        floor, decibel = floors[name], agreement(value, found[name])
        largest = largest_difference(value, found[name])
        candidate.check[name] = {"sqnr_db": decibel, "required_db": floor, "max": largest}
        if not decibel >= floor:
            raise MismatchError(
                f"{candidate.name}: output {name} differs from the program: {decibel:.1f} dB, "
                f"at least {floor:.1f} dB expected"
            )


def largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference between two finite elements."""
    finite = np.isfinite(expected) & np.isfinite(found)
    difference = expected[finite].astype(np.float64) - found[finite].astype(np.float64)
    return float(np.abs(difference).max()) if difference.size else 0.0
