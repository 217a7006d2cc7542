"""The pass `smooth-activations`: scales move from channels of activations into weights."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.program import FORWARD, Program, attribute
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.conditioning.observed import observe, rows_of
from effc.passes.bits.conditioning.sites import Site, change_channels, sites_of
from effc.passes.bits.layers import layer_names
from effc.passes.bits.rounding.codecs import IntegerCodec
from effc.passes.bits.rounding.fitted import nearest_fit
from effc.passes.bits.rounding.walk import Inputs

RULE = "smooth-activations"
TINY = 1e-5
STEPS = 20


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Channels of what linear layers read are scaled (and moved), the layers make up for it.

    Exact in float: the norm or linear before takes up the inverse. Only values that no other
    operator reads, and that such a layer computes, can be changed.

    - `smoothquant` (G. Xiao et al., 2022, arXiv 2211.10438): `max|x|^alpha / max|w|^(1 - alpha)`
      per channel evens out both. With `shift`, channels are first moved to the middle of their
      range (SQ-b of MPTQ-ViT, 2024, arXiv 2401.14895).
    - `repq` (RepQ-ViT, Z. Li et al., 2022, arXiv 2212.08254): every channel gets the mean range and
      the same zero point, so that one scale for the layer equals one per channel.
    - `awq` (J. Lin et al., 2023, arXiv 2306.00978): `(mean |x|)^a`, a from 0 to 1 by the least
      error of the outputs with weights rounded to `bits` in groups; for weights only.

    Attributes:
        method: See above.
        alpha: Of `smoothquant`.
        shift: Whether channels are moved, too, where the layer before has a bias.
        bits: Of `awq`: width of the weights that will be rounded.
        group: Of `awq`: features that share a scale.
        symmetric: Of `awq`: whether these have no zero points.
    """

    name: ClassVar[str] = RULE
    method: Literal["smoothquant", "repq", "awq"] = "smoothquant"
    alpha: float = 0.5
    shift: bool = False
    bits: int = 4
    group: int = 32
    symmetric: bool = True

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Change all values of `forward` that can be."""
        check_patterns(ctx, layer_names(program))
        sites, refused = sites_of(program.forward)
        refusals = [Refusal(RULE, name, reason) for name, reason in refused.items()]
        wanted = []
        for site in sites:
            if any(ctx.is_excluded(label(reader)) for reader in site.readers):
                refusals.append(Refusal(RULE, site.name, "excluded by the user"))
            else:
                wanted.append(site)
        changes: dict[Site, tuple[Tensor, Tensor | None]] = {}
        first = {site.readers[0]: site for site in wanted}

        def look(node: fx.Node, inputs: Inputs) -> None:
            changes[first[node]] = self.change(program, first[node], inputs)

        observe(program, ctx, first, RULE, look)
        editor, notes = Editor(program, FORWARD, RULE), dict[str, Any]()
        for site, (scale, shift) in changes.items():
            change_channels(editor, site, scale, shift)
            ends = float(scale.min()), float(scale.max())
            notes[site.name] = {"scale": [round(end, 6) for end in ends], "method": self.method,
                                "shifted": shift is not None}  # fmt: skip
        editor.remove_dead()
        return Outcome(editor.finish(), {"smoothed": notes}, tuple(refusals))

    def change(self, program: Program, site: Site, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Scale and shift of every channel of a site: float64 [channels] each."""
        rows = rows_of(inputs).double()
        weight = torch.cat([
            attribute(program.forward, str(reader.args[1].target)).double()
            for reader in site.readers
        ])  # fmt: skip
        low, high = rows.amin(0), rows.amax(0)
        moves = site.can_shift and (self.shift or self.method == "repq")
        if self.method == "repq":
            extent = (high - low).clamp(min=TINY)
            scale = extent / extent.mean()
            return scale, ((high + low) / 2 if moves else None)
        shift = (high + low) / 2 if moves else None
        if self.method == "awq":
            return self._searched(weight, inputs), None
        size = (rows if shift is None else rows - shift).abs().amax(0).clamp(min=TINY)
        columns = weight.abs().amax(0).clamp(min=TINY)
        return (size**self.alpha / columns ** (1 - self.alpha)).clamp(min=TINY), shift

    def _searched(self, weight: Tensor, inputs: Inputs) -> Tensor:
        """The scale of least output error with rounded weights (AWQ)."""
        rows = weight.numpy()
        size = rows_of(inputs).double().abs().mean(0).clamp(min=TINY).numpy()
        codec = IntegerCodec(self.bits, self.symmetric, is_clipped=False)
        best, least = np.ones(len(size)), np.inf
        for step in range(STEPS):
            scale = size ** (step / STEPS)
            scale = scale / np.sqrt(scale.max() * scale.min())
            rounded = nearest_fit(codec, rows * scale, self.group).restored() / scale
            change = rounded - rows
            lost = float(np.einsum("ij,ij->", change @ inputs.moment, change))
            if lost < least:
                best, least = scale, lost
        # AWQ's W diag(s) is a reader that makes up for x / s
        return torch.from_numpy(best)
