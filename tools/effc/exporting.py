"""Writing a program in another ecosystem's form, and checking what was written."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effc.artifact import Artifact
from effc.backends.agreement import agreement
from effc.backends.artifact import MANIFEST
from effc.candidate import FLOAT_DB
from effc.ir.errors import MismatchError, NotAvailableError, UnsupportedError, UsageError
from effc.ir.export.pt2 import save_program
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.trace import open_model
from effc.preparation import cleaned
from effc.progress import no_progress
from effc.sample import sample_inputs, sample_sizes
from effc.units import size_text

FORMS = ("onnx", "pt2")
QUANTIZED_DB = 20.0
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: Where.
        form: `onnx` or `pt2`.
        nbytes: Size of the file.
        facts: Of the form: the opset, and how closely ONNX Runtime agrees, by output, in dB.
        notes: Remarks for the user.
    """

    path: Path
    form: str
    nbytes: int
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "path": str(self.path), "form": self.form, "nbytes": self.nbytes, **self.facts,
            "notes": self.notes,
        }  # fmt: skip

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.form}, {size_text(self.nbytes)}"]
        if "opset" in self.facts:
            parts.append(f"opset {self.facts['opset']}")
        if self.facts.get("agreement_db"):
            least = min(self.facts["agreement_db"].values())
            parts.append(f"ONNX Runtime agrees to {least:.1f} dB")
        return ", ".join(parts)


def export(
    subject: str, form: str, out: Path, inputs: Sequence[str], trust_pickle: bool
) -> Exported:
    """Write an artifact's program, or a cleaned model, to a file.

    Raises:
        UsageError: For an unknown form, or a place that cannot be written.
        NotAvailableError: For the form `c`.
        UnsupportedError: Listing every operator the form has no place for.
        MismatchError: If ONNX Runtime computes something else from the file.
    """
    if form == "c":
        raise NotAvailableError("effc export --to c")
    if form not in FORMS:
        raise UsageError(f"unknown form {form!r}; there are: {', '.join(FORMS)}")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no such folder")
    notes: list[str] = []
    if (Path(subject) / MANIFEST).is_file():
        artifact = Artifact(subject)
        program, sample = artifact.program(), artifact.sample()[0]
    else:
        opened = open_model(subject, inputs=inputs, trust_pickle=trust_pickle, notes=notes)
        program = cleaned(opened, no_progress).program
        sample = sample_inputs(program, sample_sizes(program, {}), None)
    if form == "pt2":
        save_program(program, out)
        return Exported(out, form, out.stat().st_size, notes=notes)
    return _export_onnx(program, sample, out, notes)


def _export_onnx(program: Program, sample: Arrays, out: Path, notes: list[str]) -> Exported:
    from effc.backends.onnxruntime.backend import written_as
    from effc.ir.export.onnx import runtime_environment, save_onnx

    exportable, missing = written_as(program)
    if missing:
        raise UnsupportedError("the ONNX export", missing)
    model = save_onnx(exportable, out)
    opset = model.opset_import[0].version
    facts: dict[str, Any] = {"opset": opset, "agreement_db": {}}
    environment = runtime_environment(opset)
    if environment:
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        notes.append(f"ONNX Runtime loads opset {opset} only with {settings} in its environment")
    if importlib.util.find_spec("onnxruntime") is None:
        notes.append("onnxruntime is not installed, so what was written was not run")
    else:
        facts["agreement_db"] = _checked(program, sample, out, environment)
    return Exported(out, "onnx", out.stat().st_size, facts, notes)


def _checked(
    program: Program, sample: Arrays, path: Path, environment: dict[str, str]
) -> dict[str, float]:
    """Run a file in ONNX Runtime; by output, how closely it agrees, in dB.

    In quantized programs a difference in the last bit moves a value to the next code and grows from
    there, so those may differ more than float ones.

    Raises:
        MismatchError: If an output differs by more; the file stays, to be looked at.
    """
    from effc.backends.onnxruntime.session import Runtime

    inputs = {name: torch.from_numpy(value) for name, value in sample.items()}
    expected = program.run(inputs)
    found = Runtime(path, 1, environment).run(sample, list(expected))
    floor = QUANTIZED_DB if is_quantized(program) else FLOAT_DB
    result = {name: agreement(value.numpy(), found[name]) for name, value in expected.items()}
    for name, decibel in result.items():
        if not decibel >= floor:
            raise MismatchError(
                f"{path}: output {name} differs in ONNX Runtime: {decibel:.1f} dB, "
                f"at least {floor:.1f} dB expected"
            )
    return result


def is_quantized(program: Program) -> bool:
    """Whether a program rounds values to codes."""
    return any(op_name(node).startswith("effc.quantize") for node in program.forward.graph.nodes)
