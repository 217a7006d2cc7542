"""All importances by name."""

from effc.passes.named import made
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
    found: Importance = made("importance", IMPORTANCES, name)
    return found
