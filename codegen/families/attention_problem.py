"""What one attention computes, read from its node."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import fx

from effc.codegen.isa import Isa
from effc.codegen.operands import argument
from effc.codegen.region import Region
from effc.ir.errors import BuildError
from effc.ir.ops.attention import BLOCK
from effc.ir.opspec import op_name

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGER = "effc.attention_integer.default"
NAMES = {
    "aten.scaled_dot_product_attention.default": (3, 5, 6, 7),
    "effc.attention_half.default": (3, 4, 5, 6),
    INTEGER: (8, 9, 10, 11),
}
ENCODING, BLOCK_AT = slice(3, 8), 13
Arithmetic: TypeAlias = Literal["floats", "pairs", "codes"]


def key_vectors(isa: Isa) -> int:
    """Vectors of neighbouring keys (or of value columns) a tile holds in registers."""
    return 4 if isa.registers >= 32 else 2


@dataclass(frozen=True)
class Encoding:
    """Input positions of what codes stand for; each is one number."""

    query_scale: int
    query_zero_point: int
    key_scale: int
    value_scale: int
    value_zero_point: int


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
        arithmetic: What is multiplied: floats, bfloat16 pairs or codes.
        encoding: Of codes.
        block: Keys whose scores are computed before they are multiplied with the values.
    """

    query: int
    key: int
    value: int
    mask: int | None
    is_causal: bool
    scale: float
    repeats: int
    arithmetic: Arithmetic
    encoding: Encoding | None
    block: int

    def depth(self, isa: Isa) -> int:
        """Products a step of the inner loops sums per lane."""
        return {"floats": 1, "pairs": 2, "codes": isa.dot_width}[self.arithmetic]


def problem_of(region: Region, anchor: fx.Node, isa: Isa) -> Problem:
    """Read an attention operator.

    Raises:
        BuildError: For element types without code.
    """
    positions = [region.input_of(arg) for arg in anchor.args[:3]]
    mask_at, causal_at, scale_at, gqa_at = NAMES[op_name(anchor)]
    query, key = (region.inputs[p].shape for p in positions[:2])
    scale = argument(anchor, scale_at, "scale", None)
    repeats = 1
    if argument(anchor, gqa_at, "enable_gqa", False) and query[-3] != key[-3]:
        repeats = query[-3] // key[-3]
    mask_node = argument(anchor, mask_at, "attn_mask", None)
    query_at, key_at, value_at = positions
    is_integer = op_name(anchor) == INTEGER
    return Problem(
        query_at,
        key_at,
        value_at,
        None if mask_node is None else region.input_of(mask_node),
        bool(argument(anchor, causal_at, "is_causal", False)),
        1 / math.sqrt(query[-1]) if scale is None else float(scale),
        repeats,
        _arithmetic(region, positions, isa, is_integer),
        Encoding(*map(region.input_of, anchor.args[ENCODING])) if is_integer else None,
        anchor.args[BLOCK_AT] if is_integer else BLOCK,
    )


def _arithmetic(region: Region, positions: list[int], isa: Isa, is_integer: bool) -> Arithmetic:
    dtypes = {region.inputs[p].dtype for p in positions}
    wanted = {torch.uint8} if is_integer else set(FLOATS)
    if len(dtypes) > 1 or not dtypes <= wanted:
        raise BuildError(f"attention is not built for {', '.join(sorted(map(str, dtypes)))}")
    if is_integer:
        return "codes"
    return "pairs" if isa.has_bfloat16 and dtypes == {torch.bfloat16} else "floats"
