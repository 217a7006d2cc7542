"""What the report says of every quantized layer."""

import math
from typing import Any

from torch import fx

from effc.passes.bits.activation_plan import ActivationPlan
from effc.passes.bits.layers import Layer, Selection
from effc.passes.bits.weights import WeightPacker

Notes = dict[str, dict[str, Any]]


def describe(
    module: fx.GraphModule,
    selection: Selection,
    plan: ActivationPlan,
    packer: WeightPacker,
    notes: Notes,
) -> None:
    """Add a note for every layer of one method; a name that comes again gets a number.

    Args:
        module: Before anything is written into it.
        selection: The layers.
        plan: What their activations become.
        packer: Has the codes of the weights.
        notes: By layer name; added to.
    """
    for layer in selection.layers:
        name, number = layer.name, 1
        while name in notes:
            number += 1
            name = f"{layer.name}#{number}"
        weight = packer.of(module, layer.weight, layer.name)
        what = "row" if layer.kind == "embedding" else "channel"
        notes[name] = {
            "weight": f"int8 per {what}",
            "weight_sqnr_db": _rounded(weight.sqnr_db),
            **_activation(layer, plan),
        }


def _activation(layer: Layer, plan: ActivationPlan) -> dict[str, Any]:
    if layer.kind == "embedding":
        return {}
    found = plan.encodings().get(layer.value)
    if found is None:
        slices = "image" if layer.kind == "conv2d" else "token"
        return {"activation": f"dynamic uint8 per {slices}", "sqnr_db": None}
    text = f"static uint8 scale={found.scale:.6g} zero_point={found.zero_point}"
    return {"activation": text, "sqnr_db": _rounded(found.sqnr_db)}


def _rounded(decibel: float) -> float | None:
    return round(decibel, 2) if math.isfinite(decibel) else None
