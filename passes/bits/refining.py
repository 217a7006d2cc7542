"""What whole choices of formats lose, measured on data that no metric looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from effc.passes.bits.forms import Form
from effc.passes.bits.metrics.parts import Part
from effc.passes.bits.metrics.running import with_weights
from effc.passes.bits.metrics.study import Study
from effc.passes.plan.model import Plan, Problem, Unit
from effc.passes.plan.refinement import Choices, Refined, refined
from effc.passes.plan.solver import solve


@dataclass(eq=False)
class Measurement:
    """Measures choices; what was measured is kept in the study's store.

    Attributes:
        study: The program, its parts and its data.
        forms: The formats of a part by the names of its options.
        members: The units of single weights that each of a problem's units is made of.
    """

    study: Study
    forms: Mapping[Part, Mapping[str, Form]]
    members: Mapping[str, Sequence[Unit]]
    _weights: dict[Part, tuple[Form, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, choices: Choices) -> float:
        """Divergence from the outputs in float on the held out batches of the study."""
        formats = {own.name: choices[name] for name, units in self.members.items() for own in units}
        key = "choice " + " ".join(formats[part.name] for part in self.study.parts)
        known = self.study.recalled(key)
        if "loss" not in known:
            known["loss"] = self._measured(
                {part: forms[formats[part.name]] for part, forms in self.forms.items()}
            )
            self.study.remember(key, known)
        return float(known["loss"])

    def _measured(self, forms: dict[Part, Form]) -> float:
        for part, form in forms.items():
            if part not in self._weights or self._weights[part][0] != form:
                self._weights[part] = form, form.restored(part.weight)
        weights = {part: self._weights[part][1] for part in forms}
        module, batches = self.study.program.forward, self.study.held_out
        found = [with_weights(module, forms, weights, batch.inputs) for batch in batches]
        return self.study.divergence_on(batches, found)


def refined_plan(problem: Problem, plan: Plan, measured: Measurement, rounds: int) -> Refined:
    """A solver's plan as measurements change it, never worse than that of one format for all."""
    uniform = solve(problem, "uniform")
    plans = [plan, *([uniform] if isinstance(uniform, Plan) else [])]
    return refined(problem, plans, measured, rounds)
