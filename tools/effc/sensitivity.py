"""How sensitive a layer is: the signal-to-noise ratio its 8-bit form leaves."""

import math
from typing import Any

RATIOS = ("sqnr_db", "weight_sqnr_db")


def layer_decibel(notes: dict[str, Any]) -> float:
    """The lower of a layer's ratios, of its weight and of what it reads; infinite if unknown."""
    ratios = [notes[name] for name in RATIOS if isinstance(notes.get(name), int | float)]
    return min(ratios, default=math.inf)
