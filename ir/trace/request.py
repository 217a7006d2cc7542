"""What a user asks of a front door besides the model itself."""

from dataclasses import dataclass, field
from typing import Any

from effc.ir.trace.inputs import WantedInputs


@dataclass(frozen=True)
class Request:
    """Options of `open_model`, read and checked.

    Attributes:
        wanted: The inputs the user describes; may be empty.
        examples: Example inputs for modules: a tensor, a tuple or a dict, or None.
        trust_pickle: Whether a pickled module may be loaded.
        name: What to call the model, or None to derive it.
        notes: Receives remarks for the user.
    """

    wanted: WantedInputs
    examples: Any = None
    trust_pickle: bool = False
    name: str | None = None
    notes: list[str] = field(default_factory=list)
