"""What the report says of every quantized layer."""

import math
from typing import Any

from torch import fx

from effc.passes.bits.activation_plan import ActivationMode, ActivationPlan, Dynamic
from effc.passes.bits.encoding import Encoding
from effc.passes.bits.layers import Layer, Selection
from effc.passes.bits.weights import WeightPacker

Notes = dict[str, dict[str, Any]]


def describe(
    module: fx.GraphModule,
    selection: Selection,
    plan: ActivationPlan,
    packer: WeightPacker,
    mode: ActivationMode,
    notes: Notes,
) -> None:
    """Add a note for every layer of one method; a name that comes again gets a number.

    Args:
        module: Before anything is written into it.
        selection: The layers.
        plan: What their activations become.
        packer: Has the codes of the weights.
        mode: What the user asked for.
        notes: By layer name; added to.
    """
    for layer in selection.layers:
        name, number = layer.name, 1
        while name in notes:
            number += 1
            name = f"{layer.name}#{number}"
        weight = packer.of(module, layer.weight, layer.name, layer.bits)
        what = "row" if layer.kind == "embedding" else "channel"
        notes[name] = {
            "weight": f"int{layer.bits} per {what}",
            "weight_sqnr_db": _rounded(weight.sqnr_db),
            **(_activation(layer, plan, mode) if layer.kind != "embedding" else {}),
        }


def _activation(layer: Layer, plan: ActivationPlan, mode: ActivationMode) -> dict[str, Any]:
    for static in plan.static:
        if layer.value in static.group.values:
            return _static(static.encoding, mode)
    for dynamic in plan.dynamic:
        if layer.node in dynamic.readers:
            return _dynamic(dynamic, "image" if layer.kind == "conv2d" else "token", mode)
    return {}


def _static(encoding: Encoding, mode: ActivationMode) -> dict[str, Any]:
    why = f"one static scale promises {encoding.sqnr_db:.1f} dB"
    return {
        "activation": f"static uint8 scale={encoding.scale:.6g} zero_point={encoding.zero_point}",
        "sqnr_db": _rounded(encoding.sqnr_db),
        "why": why if mode == "auto" else f"activations={mode}",
    }


def _dynamic(dynamic: Dynamic, slices: str, mode: ActivationMode) -> dict[str, Any]:
    ratios = {"sqnr_db": dynamic.sqnr_db, "static_sqnr_db": dynamic.static_db}
    known = {name: _rounded(value) for name, value in ratios.items() if value is not None}
    why = "no calibration data" if mode == "auto" else f"activations={mode}"
    if dynamic.static_db is not None:
        why = f"one static scale promises only {dynamic.static_db:.1f} dB"
    return {"activation": f"dynamic uint8 per {slices}", **known, "why": why}


def _rounded(decibel: float) -> float | None:
    return round(decibel, 2) if math.isfinite(decibel) else None
