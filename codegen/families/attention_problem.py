"""What one attention computes, read from its node."""

import math
from dataclasses import dataclass

import torch
from torch import fx

from effc.codegen.isa import Isa
from effc.codegen.operands import argument
from effc.codegen.region import Region
from effc.ir.errors import BuildError
from effc.ir.opspec import op_name

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
NAMES = {
    "aten.scaled_dot_product_attention.default": (5, 6, 7),
    "effc.attention_half.default": (4, 5, 6),
}


def key_vectors(isa: Isa) -> int:
    """Vectors of neighbouring keys (or of value columns) a tile holds in registers."""
    return 4 if isa.registers >= 32 else 2


@dataclass(frozen=True)
class Problem:
    """One attention: query `[..., L, E]`, key `[..., S, E]`, value `[..., S, V]`.

    Attributes:
        query: Input position.
        key: Input position.
        value: Input position.
        mask: Input position of the mask, or None.
        is_causal: Whether query i sees keys up to i only.
        scale: Factor of the scores.
        repeats: Query heads per key head.
        pairs: Whether bfloat16 pairs are multiplied.
    """

    query: int
    key: int
    value: int
    mask: int | None
    is_causal: bool
    scale: float
    repeats: int
    pairs: bool


def problem_of(region: Region, anchor: fx.Node, isa: Isa) -> Problem:
    """Read an attention operator.

    Raises:
        BuildError: For element types without code.
    """
    positions = [region.input_of(arg) for arg in anchor.args[:3]]
    dtypes = {region.inputs[p].dtype for p in positions}
    if len(dtypes) > 1 or not dtypes <= set(FLOATS):
        raise BuildError(f"attention is not built for {', '.join(sorted(map(str, dtypes)))}")
    causal_at, scale_at, gqa_at = NAMES[op_name(anchor)]
    query, key = (region.inputs[p].shape for p in positions[:2])
    scale = argument(anchor, scale_at, "scale", None)
    repeats = 1
    if argument(anchor, gqa_at, "enable_gqa", False) and query[-3] != key[-3]:
        repeats = query[-3] // key[-3]
    mask_node = argument(anchor, 3, "attn_mask", None)
    query_at, key_at, value_at = positions
    return Problem(
        query_at,
        key_at,
        value_at,
        None if mask_node is None else region.input_of(mask_node),
        bool(argument(anchor, causal_at, "is_causal", False)),
        1 / math.sqrt(query[-1]) if scale is None else float(scale),
        repeats,
        isa.has_bfloat16 and dtypes == {torch.bfloat16},
    )
