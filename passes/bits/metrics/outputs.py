"""Metrics that run the program with one part changed and look at what comes out."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from effc.ir.errors import DataError, EffcError, UsageError
from effc.ir.program import Program, set_attribute
from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.study import Study

SKETCH = 2048
Sketch = NDArray[np.float32]


class OutputDivergence:
    """Divergence of the outputs from those in float, as in ZeroQ (Cai et al., 2020, 2001.00281)."""

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Run once per part and format; what the change does not reach is not computed again."""
        for part in parts:
            yield part, [0.0 if f.is_float else study.damage({part: f}) for f in forms]


class AugmentedHessian:
    """Second-order loss of a part, with half the terms it shares with all other parts.

    After Schaefer et al., "Augmented Hessian", 2023, arXiv 2302.01382, whose correction for what
    layers do to each other this measures directly: u_i is the change of the outputs that part i
    makes alone, in coordinates where the loss is |sum u_i|^2 / 2. Part i gets |u_i|^2 / 2 and half
    of every positive u_i . u_j with j in the same format. Negative terms are left out: what makes
    up for another part's error in one choice of formats adds to it in the next, and a solver that
    sees them buys large errors for their sake. So the sum over all parts is at least the loss of
    all of them together. Outputs are kept as random projections of `SKETCH` elements.
    """

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Run once per part and format, then multiply the changes."""
        sketches = {}
        for done, part in enumerate(study.parts if parts else ()):
            study.ctx.progress("measure changes", done, len(study.parts))
            sketches[part] = _sketches(study, part, forms)
        for part in parts:
            total = np.zeros(len(forms))
            for other in study.parts:
                shared = (sketches[part] * sketches[other]).sum(1, dtype=np.float64)
                total += np.maximum(shared, 0.0)
            yield part, [0.5 * float(one) for one in total]


def _sketches(study: Study, part: Part, forms: Sequence[Form]) -> Sketch:
    """The change of the outputs in each format: float32 [formats, SKETCH]; kept in the store."""
    known = study.recalled_arrays(f"sketch {part.name}")
    fresh = [form for form in forms if not form.is_float and str(form) not in known]
    for form in fresh:
        known[str(form)] = _sketch(study, study.outputs_of({part: form}))
    if fresh:
        study.remember_arrays(f"sketch {part.name}", known)
    nothing = np.zeros(SKETCH, np.float32)
    return np.stack([known.get(str(form), nothing) for form in forms])


def _sketch(study: Study, outputs: list[list[torch.Tensor]]) -> Sketch:
    """A count sketch of the whitened change: squared lengths and products are kept on average."""
    draw = study.generator("sketch")
    total = torch.zeros(SKETCH)
    for batch, found in zip(study.sample, outputs, strict=True):
        change = study.divergence.whitened(batch.outputs, found) / len(study.sample) ** 0.5
        place = torch.randint(0, SKETCH, change.shape, generator=draw)
        signs = torch.randint(0, 2, change.shape, generator=draw) * 2.0 - 1.0
        total.index_add_(0, place, torch.nan_to_num(change, posinf=0.0, neginf=0.0) * signs)
    return np.asarray(total.numpy())


class TaskDrop:
    """Measured loss of task quality with one part changed; never less than none."""

    def losses(
        self, study: Study, parts: Sequence[Part], forms: Sequence[Form]
    ) -> Iterator[tuple[Part, list[float]]]:
        """Evaluate once per part and format."""
        if study.ctx.evaluate is None:
            raise UsageError("metric task-drop needs evaluation data; give it with --eval")
        whole = evaluated(study, study.program) if parts else 0.0
        for part in parts:
            found = [
                whole if form.is_float else evaluated(study, replaced(study, {part: form}))
                for form in forms
            ]
            yield part, [max(whole - one, 0.0) for one in found]


def evaluated(study: Study, program: Program) -> float:
    """Task quality of a program.

    Raises:
        DataError: If the function fails or gives something that is no number.
    """
    assert study.ctx.evaluate is not None
    try:
        quality = float(study.ctx.evaluate(program))
    except EffcError:
        raise
    except Exception as error:  # a user's function raises whatever it raises
        raise DataError(f"the evaluation failed: {type(error).__name__}: {error}") from error
    if np.isnan(quality):
        raise DataError("the evaluation gives NaN, not a number")
    return quality


def replaced(study: Study, forms: dict[Part, Form]) -> Program:
    """A copy of the program with the weights of some parts rounded; activations stay in float."""
    program = study.program.clone()
    for part, form in forms.items():
        weight = form.restored(part.weight)
        for node in part.sources:
            set_attribute(program.forward, str(node.target), weight)
    return program
