"""effc's own operators, registered with `torch.library` under `effc::` on import.

They are the only vocabulary effc adds to ATen. Each has a reference implementation in plain
PyTorch, which *is* its meaning: kernels are tested against it.
"""

from effc.ir.ops import (
    attention,
    blocks,
    grouped,
    half,
    integer,
    interpolation,
    linear_attention,
    quantization,
    stored,
)

__all__ = [
    "attention",
    "blocks",
    "grouped",
    "half",
    "integer",
    "interpolation",
    "linear_attention",
    "quantization",
    "stored",
]
