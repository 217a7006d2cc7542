"""All importances by name."""

import importlib

from effc.ir.errors import UsageError
from effc.passes.prune.importance.scoring import Importance

HERE = "effc.passes.prune.importance"
IMPORTANCES: dict[str, str] = {
    "l1": f"{HERE}.magnitude:L1",
    "l2": f"{HERE}.magnitude:L2",
    "lamp": f"{HERE}.magnitude:Lamp",
    "norm-scale": f"{HERE}.magnitude:NormScale",
    "random": f"{HERE}.magnitude:Random",
    "activation": f"{HERE}.activations:Activation",
    "wanda": f"{HERE}.activations:Wanda",
    "flap": f"{HERE}.activations:Flap",
    "taylor": f"{HERE}.gradients:Taylor",
    "fisher": f"{HERE}.gradients:Fisher",
}


def importance_of(name: str) -> Importance:
    """An importance by name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in IMPORTANCES:
        raise UsageError(f"unknown importance {name!r}; there are: {', '.join(IMPORTANCES)}")
    module, _, kind = IMPORTANCES[name].partition(":")
    made: Importance = getattr(importlib.import_module(module), kind)()
    return made
