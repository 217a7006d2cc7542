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
            **(_activation(layer, plan) if layer.kind != "embedding" else {}),
        }


def _activation(layer: Layer, plan: ActivationPlan) -> dict[str, Any]:
    for static in plan.static:
        if layer.value in static.group.values:
            encoding = static.encoding
            text = f"scale={encoding.scale:.6g} zero_point={encoding.zero_point}"
            sqnr = _rounded(encoding.sqnr_db)
            return {"activation": f"static uint8 {text}", "sqnr_db": sqnr}
    for dynamic in plan.dynamic:
        if layer.node in dynamic.readers:
            slices = "image" if layer.kind == "conv2d" else "token"
            ratios = {"sqnr_db": dynamic.sqnr_db, "static_sqnr_db": dynamic.static_db}
            known = {name: _rounded(value) for name, value in ratios.items() if value is not None}
            return {"activation": f"dynamic uint8 per {slices}", **known}
    return {}


def _rounded(decibel: float) -> float | None:
    return round(decibel, 2) if math.isfinite(decibel) else None
