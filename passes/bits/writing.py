"""Writes a choice of formats into a program: codes under per-layer rules, or simulated weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

import torch

from effc.ir.edit import Editor
from effc.ir.errors import UsageError
from effc.ir.program import FORWARD
from effc.passes.base import Outcome
from effc.passes.bits import quantize_weights
from effc.passes.bits.forms import FLOAT_BITS, INT8, Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.second_moments import moments_of
from effc.passes.bits.metrics.study import Study
from effc.passes.bits.quantize import Quantize
from effc.passes.bits.quantize_weights import QuantizeWeights
from effc.passes.bits.rounding import strategies
from effc.passes.bits.rounding.strategies import needs_moments, rounded_weight

RULE = "allocate-bits"
Chosen = Mapping[Part, Form]


@dataclass(frozen=True)
class Writing:
    """How formats are written.

    Attributes:
        rounding: Of weights below 8 bits.
        simulate: Whether those are rounded and stay in float.

    Raises:
        UsageError: If there is no such way to round.
    """

    rounding: str
    simulate: bool = False

    def __post_init__(self) -> None:
        """Refuse what nothing can write."""
        known = strategies.ROUNDINGS if self.simulate else tuple(quantize_weights.ROUNDINGS)
        if self.rounding not in known:
            kind = "simulated " if self.simulate else ""
            raise UsageError(
                f"there is no rounding={self.rounding} of {kind}weights; there are: "
                f"{', '.join(known)}"
            )

    def write(self, study: Study, chosen: Chosen) -> Outcome:
        """Write what was chosen.

        8 bits come first, so that calibration sees the program as it was.

        Args:
            study: Its program is edited in place.
            chosen: A format for every part.
        """
        is_simulated = self.simulate and self._simulate(study, chosen)
        rules = _rules(chosen, lambda form: form.is_channel and not self._is_simulated(form))
        outcomes = [Quantize().run(study.program, replace(study.ctx, rules=rules))]
        for activation in () if self.simulate else (INT8.activation, FLOAT_BITS):
            grouped = {f for f in chosen.values() if f.is_grouped and f.activation == activation}
            if grouped:
                rules = _rules(chosen, lambda form, wanted=grouped: form in wanted)
                ctx = replace(study.ctx, rules=rules)
                outcomes.append(self._grouped(activation).run(study.program, ctx))
        layers: dict[str, Any] = {}
        for outcome in outcomes:
            layers |= outcome.notes["layers"]
        changed = is_simulated or any(outcome.changed for outcome in outcomes)
        refusals = dict.fromkeys(one for outcome in outcomes for one in outcome.refusals)
        return Outcome(changed, {"layers": layers}, tuple(refusals))

    def _grouped(self, activation: int) -> QuantizeWeights:
        settings: dict[str, Any] = {"rounding": self.rounding}
        activations = "int8" if activation == INT8.activation else "float32"
        return QuantizeWeights(activations=activations, **settings)  # type: ignore[arg-type]

    def _is_simulated(self, form: Form) -> bool:
        return self.simulate and form != INT8 and not form.is_float

    def _simulate(self, study: Study, chosen: Chosen) -> bool:
        """Let everything read rounded weights; whether the program changed."""
        with_data = needs_moments(self.rounding)
        rounded = {
            part: rounded_weight(
                part, form, self.rounding, moments_of(study, part) if with_data else None
            )
            for part, form in chosen.items()
            if self._is_simulated(form)
        }
        editor = Editor(study.program, FORWARD, RULE)
        for part, weight in rounded.items():
            _replace(editor, part, weight)
        return editor.finish()


def _rules(chosen: Chosen, is_wanted: Any) -> tuple[tuple[str, dict[str, str]], ...]:
    """Rules that give some formats to their layers and leave all others alone."""
    return tuple(
        (escape(name), form.rules() if is_wanted(form) else {"bits": "float"})
        for part, form in chosen.items()
        for name in part.members
    )


def _replace(editor: Editor, part: Part, rounded: torch.Tensor) -> None:
    for source in part.sources:
        made = editor.weight(f"{source.target}_rounded", rounded, like=source)
        editor.replace(source, made)
